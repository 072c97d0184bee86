"""What a run leaves behind beside the model."""

import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset
from transformers import Trainer

from bertcls.data import label_array, label_names_of, problem_type_of
from bertcls.inference import TextClassifier, reaches, texts_of
from bertcls.metrics import (
    ClassificationMetric,
    MultiLabelMetric,
    RegressionMetric,
    correlation_interval,
    wilson_interval,
)
from bertcls.modeling import MULTI_LABEL, REGRESSION

RESULTS, PREDICTIONS, RECORD = "all_results.json", "predictions.parquet", "run.json"
_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def score_reported(
    classifier: TextClassifier, dataset: Dataset, *, run_dir: str, windows: bool = False, progress: bool = False
) -> dict:
    """Scores the reported rows from their raw text, and writes `predictions.parquet`, the source of these scores.

    The file has the columns `example_id`, `text`, for pairs `text_pair`, `label` and `prediction` (names, lists of
    names, or numbers), and for every class `probability_<name>`.

    Args:
        classifier: loaded from the saved folder.
        dataset: rows with raw `text`, `label` and `example_id`.
        run_dir: where the file goes.
        windows: of a single-label task, also give what is often reported for long texts in place of a score per
            document: `test_window_accuracy`, each window judged by its document's label, and `test_vote_accuracy`,
            documents by the label that most of their windows have, ties by the summed probability.
        progress: show a progress bar.

    Returns:
        `test_*`: the scores of the task's metric, and the 95 % interval of the accuracy, or of Pearson's correlation.
    """
    if windows:
        probabilities, windows_of = classifier.probabilities_with_windows(texts_of(dataset), progress=progress)
    else:
        probabilities, windows_of = classifier.probabilities(texts_of(dataset), progress=progress), []
    names, labels, kind = label_names_of(dataset), label_array(dataset), problem_type_of(dataset)
    columns = [name for name in ("example_id", "text", "text_pair") if name in dataset.column_names]
    table = dataset.select_columns(columns).to_pandas()
    if kind == REGRESSION:
        predictions, metric = probabilities[:, 0], RegressionMetric()
        table["label"], table["prediction"] = labels, predictions
    elif kind == MULTI_LABEL:
        predictions = reaches(probabilities, classifier.model.config.thresholds).astype(np.int64)
        metric = MultiLabelMetric(names)
        for column, rows in (("label", labels), ("prediction", predictions)):
            table[column] = [[names[number] for number in np.flatnonzero(row)] for row in rows]
    else:
        predictions, metric = probabilities.argmax(-1), ClassificationMetric(names)
        table["label"], table["prediction"] = np.array(names)[labels], np.array(names)[predictions]
    if kind != REGRESSION:
        for number, name in enumerate(names):
            table[f"probability_{name}"] = probabilities[:, number]
    table.to_parquet(Path(run_dir, PREDICTIONS), index=False)
    scores = metric.compute(predictions=predictions, references=labels)
    if kind == REGRESSION:
        scores["pearson_low"], scores["pearson_high"] = correlation_interval(scores["pearson"], len(labels))
    else:
        right = round(scores["accuracy"] * len(labels))
        scores["accuracy_low"], scores["accuracy_high"] = wilson_interval(right, len(labels))
    if windows:
        scores |= _window_scores(labels, windows_of)
    scores["samples"] = len(labels)
    return {f"test_{name}": value for name, value in scores.items()}


def _window_scores(labels: np.ndarray, windows_of: list[np.ndarray]) -> dict:
    right, votes = [], []
    for label, rows in zip(labels, windows_of):  # rows: [windows, num_labels]
        winners = rows.argmax(-1)
        right += (winners == label).tolist()
        counts = np.bincount(winners, minlength=rows.shape[1])
        votes.append((counts + rows.mean(0)).argmax() == label)
    return {"window_accuracy": float(np.mean(right)), "vote_accuracy": float(np.mean(votes))}


def scores_before(log_history: list[dict]) -> dict:
    """Scores of the untrained model, `before_*`, from the log of a Trainer with `eval_on_start`; none where it is off.

    >>> scores_before([{"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.5, "epoch": 0}, {"step": 9, "eval_loss": 0.1}])
    {'before_loss': 0.7, 'before_accuracy': 0.5}
    """
    first = next((entry for entry in log_history if entry["step"] == 0 and "eval_loss" in entry), {})
    return {key.replace("eval_", "before_"): value for key, value in first.items() if key.startswith("eval_")}


def write_results(results: dict, *, run_dir: str, pairs: bool = False, model: bool = True) -> str:
    """Writes all scores of a run to `all_results.json`.

    Args:
        results: of the whole run.
        run_dir: where the file goes.
        pairs: the model reads pairs, which the command that is shown says.
        model: there is a saved model to show a command for.

    Returns:
        what to tell the user: the score, where the model is, and how to use it.
    """
    Path(run_dir, RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    example = ("A text.", "Another.") if pairs else "A film that ends well."
    main = "pearson" if "test_pearson" in results else "accuracy"
    called = {"pearson": "Pearson correlation", "accuracy": "accuracy"}[main]
    beside = {"test_rmse": "RMSE", "test_f1_micro": "F1 micro", "test_f1_macro": "F1 macro"}
    beside |= {"test_window_accuracy": "accuracy per window", "test_vote_accuracy": "per document by vote"}
    others = ", ".join(f"{name} {results[key]:.4f}" for key, name in beside.items() if key in results)
    scores = (
        f"{results['reported_split']} {called} {results[f'test_{main}']:.4f} (95 % interval "
        f"{results[f'test_{main}_low']:.4f} to {results[f'test_{main}_high']:.4f}, {results['test_samples']} rows), "
        f"{others}"
    )
    if not model:
        return scores
    return (
        f"{scores}\nThe model is in {run_dir}. Use it:\n"
        f'  python -c "from bertcls import TextClassifier; '
        f"print(TextClassifier.from_pretrained('{Path(run_dir).as_posix()}').predict({example!r}))\""
    )


def write_record(trainer: Trainer, *, run_dir: str) -> dict:
    """Writes how a run was made to `run.json`, as this process saw it; not pushed, since it may hold local paths.

    Returns:
        `command` (without tokens of the Hub), `git_commit` of the recipe's repository (with `-dirty` where its files
        were changed; `None` outside of one), `seed`, `versions`, `device`, `processes`, `cpu_threads` of each and
        `precision`; `wall_seconds` since the process began; `train_seconds`, evaluations and saves included, and over
        these `train_examples_per_second` and `train_tokens_per_second` (tokens of windows, without padding; both
        `None` for a resumed run); `padding_share` of the training batches; `peak_memory_gib` of the process and of its
        accelerator.
    """
    args, state, dataset = trainer.args, trainer.state, trainer.train_dataset
    summary = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), {})
    seconds = summary.get("train_runtime")
    rates = {"train_examples_per_second": None, "train_tokens_per_second": None}
    if seconds and not args.resume_from_checkpoint:
        tokens = int(np.sum(dataset["length"][:]))
        per_second = state.epoch / seconds
        rates = {
            "train_examples_per_second": round(len(dataset) * per_second, 2),
            "train_tokens_per_second": round(tokens * per_second, 1),
        }
    padding = [entry["padding_share"] for entry in state.log_history if "padding_share" in entry]
    on_cpu = args.device.type == "cpu"
    record = {
        "command": _without_tokens(sys.argv),
        "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        "seed": args.seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "cpu_threads": torch.get_num_threads(),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "wall_seconds": round(time.time() - psutil.Process().create_time(), 1),
        "train_seconds": seconds,
        **rates,
        "padding_share": round(float(np.mean(padding)), 4) if padding else None,
        "peak_memory_gib": {
            "process": round(_peak_memory() / 2**30, 2),
            "accelerator": None if on_cpu else round(torch.accelerator.max_memory_allocated() / 2**30, 2),
        },
    }
    Path(run_dir, RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _peak_memory() -> int:
    """Bytes that this process had in memory at its peak."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _without_tokens(words: list[str]) -> list[str]:
    """A command line without what `--hub_token` gives.

    >>> _without_tokens(["x.py", "--hub_token", "hf_1", "--hub_token=hf_2", "--seed", "1"])
    ['x.py', '--hub_token', '***', '--hub_token=***', '--seed', '1']
    """
    hidden = [re.sub(r"^(--hub[-_]token=).*", r"\1***", word) for word in words]
    return [
        "***" if place and re.fullmatch(r"--hub[-_]token", hidden[place - 1]) else word
        for place, word in enumerate(hidden)
    ]


def _git_commit(folder: Path) -> str | None:
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return f"{commit}-dirty" if dirty else commit


def write_pretraining(results: dict, *, run_dir: str) -> str:
    """Writes all scores of a further pretraining to `all_results.json`.

    Args:
        results: of the whole run; `random_head_weights` and `head_warmup_steps` say what "before" means.
        run_dir: where the file goes.

    Returns:
        what to tell the user: loss and perplexity before and after, and what the saved encoder is good for.
    """
    Path(run_dir, RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        f"{when}: loss {results[f'{prefix}_masked_loss']:.4f}, perplexity {results[f'{prefix}_perplexity']:.2f}, "
        f"accuracy {results[f'{prefix}_masked_accuracy']:.4f}"
        for when, prefix in (("before", "before"), ("after", "eval"))
        if f"{prefix}_masked_loss" in results
    ]
    if results["random_head_weights"]:
        steps = results["head_warmup_steps"]
        lines[0] += f" (the head was random and was trained alone for {steps} steps first)"
    return "\n".join(
        [
            f"{results['eval_masked_tokens']} masked tokens of validation, the same before and after:",
            *lines,
            f"The encoder is in {run_dir}, {'with' if results['pooler_kept'] else 'without'} a pooler. Fine-tune it:",
            f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {Path(run_dir).as_posix()}",
        ]
    )
