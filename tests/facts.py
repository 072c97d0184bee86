"""The facts of a made-up run, as `write_report` gathers them."""

import copy

FACTS = {  # as write_report gives them
    "headline": "The encoder (0.8610) beats always negative (0.5092) beyond noise.",
    "scores": {
        "test_accuracy": 0.8610091743119266,
        "test_accuracy_low": 0.8364,
        "test_accuracy_high": 0.8824,
        "test_f1_macro": 0.8609,
        "test_samples": 872,
        "test_confusion_matrix": [[360, 68], [53, 391]],
        "eval_accuracy": 0.9071,
        "before_accuracy": 0.4932,
        "train_runtime": 215.7,
        "train_samples": 8000,
    },
    "task": {
        "problem_type": "single_label_classification",
        "labels": ["negative", "positive"],
        "reported_split": "validation",
        "rows": {"train": 8000, "validation": 1000, "test": 872},
        "label_shares": {
            "train": {"negative": 0.44, "positive": 0.56},
            "validation": {"negative": 0.45, "positive": 0.55},
            "test": {"negative": 0.4908, "positive": 0.5092},
        },
    },
    "name": "sst2",
    "data": "stanfordnlp/sst2",
    "source": {"dataset": "stanfordnlp/sst2", "config": "default", "revision": "8d51e7e4887a4caaa95b3f", "files": []},
    "baselines": [
        {
            "name": "always positive",
            "score": 0.5092,
            "low": 0.476,
            "high": 0.5422,
            "p_value": 1e-9,
            "outcome": "better",
        },
        {"name": "TF-IDF", "score": 0.8011, "low": 0.7733, "high": 0.8263, "p_value": 0.00012, "outcome": "better"},
    ],
    "calibration": {
        "temperature": 1.3742,
        "ece_before": 0.0613,
        "ece": 0.0218,
        "bins": [{"low": 0.9, "high": 1.0, "rows": 500, "confidence": 0.97, "accuracy": 0.96}],
        "coverage": [
            {"threshold": 0.5011, "coverage": 1.0, "accuracy": 0.861, "low": 0.8364, "high": 0.8824},
            {"threshold": 0.9317, "coverage": 0.5, "accuracy": 0.9541, "low": 0.93, "high": 0.97},
        ],
    },
    "slices": [
        {
            "slice": "negation",
            "group": "with negation",
            "rows": 212,
            "score": 0.7311,
            "low": 0.6678,
            "high": 0.7862,
            "outcome": "worse",
        },
    ],
    "audit": {
        "lines": ["            train  test", "rows        8,000   872", "LEAK, train-test: 3 of 872 rows"],
        "leaked": True,
    },
    "run": {
        "command": ["recipes/sst2_finetune.py"],
        "git_commit": "a278789",
        "seed": 42,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "device": "NVIDIA H200",
        "processes": 2,
        "cpu_threads": 8,
        "precision": "bf16",
        "wall_seconds": 250.0,
        "train_seconds": 215.7,
        "train_examples_per_second": 111.26,
        "train_tokens_per_second": 2100.0,
        "peak_memory_gib": {"process": 1.25, "accelerator": 3.5},
    },
    "arguments": {"learning_rate": "5e-05", "num_train_epochs": "3"},
    "chosen": {"by": "accuracy", "made": 24, "linear": True, "said": "Training stopped after epoch 3 of 3."},
    "model": {
        "encoder": "google-bert/bert-base-uncased",
        "parameters": 109483778,
        "pooling": "pooler",
        "contract": {
            "cleaning": ["strip_tags"],
            "max_length": 32,
            "overlap": 6,
            "truncation": "none",
            "pair_truncation": None,
            "window_pooling": "mean",
            "temperature": 1.3742,
        },
    },
    "stock": {"exported": True, "not_carried": ["cleaning: strip_tags; apply bertcls.clean to a text first"]},
    "errors": [{"text": "A TEXT OF THE DATA"}],
    "probes": [{"text": "A PROBE"}],
}


def changed(**parts) -> dict:
    """The facts with some of them replaced; `section__name=value` replaces one value."""
    facts = copy.deepcopy(FACTS)
    for name, value in parts.items():
        section, _, key = name.partition("__")
        if key:
            facts[section][key] = value
        else:
            facts[section] = value
    return facts
