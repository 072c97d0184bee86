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
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase, Trainer

from bertcls.analysis import run_probes, score_with_interval
from bertcls.audit import AUDIT, format_audit
from bertcls.baseline import TfidfClassifier, cleaned_texts
from bertcls.card import write_card
from bertcls.data import label_array, label_names_of, label_shares, problem_type_of
from bertcls.figures import (
    draw_before_after,
    draw_confusion,
    draw_coverage,
    draw_curves,
    draw_lengths,
    draw_reliability,
    draw_shares,
)
from bertcls.files import warn
from bertcls.findings import gather_findings, headline
from bertcls.inference import TextClassifier, reaches, texts_of
from bertcls.metrics import (
    ClassificationMetric,
    MultiLabelMetric,
    RegressionMetric,
    correlation_interval,
    wilson_interval,
)
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION
from bertcls.page import write_page
from bertcls.process import peak_memory, whole_file
from bertcls.stock import STOCK, export_stock

REPORT = "report"  # folder of a run; all test scores can be recomputed from the predictions in it
RESULTS, PREDICTIONS, RECORD = f"{REPORT}/metrics.json", f"{REPORT}/predictions.parquet", "run.json"
_STOCK_TEXTS = 16  # of the reported rows, on which the stock export is compared, in fp64
_ARGUMENTS = (  # of training, shown in the report and the card
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "optim",
    "metric_for_best_model",
    "seed",
)
_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def score_reported(
    classifier: TextClassifier | TfidfClassifier,
    dataset: Dataset,
    *,
    run_dir: str,
    windows: bool = False,
    progress: bool = False,
) -> dict:
    """Scores the reported rows from their raw text, and writes `report/predictions.parquet`, the source of them.

    The file has the columns `example_id`, `text`, for pairs `text_pair`, `label` and `prediction` (names, lists of
    names, or numbers), and for every class `probability_<name>`.

    Args:
        classifier: a `TextClassifier` that was loaded from the saved folder, or a simple model.
        dataset: rows with raw `text`, `label` and `example_id`.
        run_dir: where the file goes.
        windows: of a single-label task and a `TextClassifier`, also give what is often reported for long texts in
            place of a score per document: `test_window_accuracy`, each window judged by its document's label, and
            `test_vote_accuracy`, documents by the label that most of their windows have, ties by the summed
            probability.
        progress: show a progress bar.

    Returns:
        `test_*`: the scores of the task's metric, and the 95 % interval of the accuracy, or of Pearson's correlation
        and the mean absolute error.
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
        predictions = reaches(probabilities, classifier.thresholds).astype(np.int64)
        metric = MultiLabelMetric(names)
        for column, rows in (("label", labels), ("prediction", predictions)):
            table[column] = [[names[number] for number in np.flatnonzero(row)] for row in rows]
    else:
        predictions, metric = probabilities.argmax(-1), ClassificationMetric(names)
        table["label"], table["prediction"] = np.array(names)[labels], np.array(names)[predictions]
    if kind != REGRESSION:
        for number, name in enumerate(names):
            table[f"probability_{name}"] = probabilities[:, number]
    Path(run_dir, REPORT).mkdir(exist_ok=True)
    table.to_parquet(Path(run_dir, PREDICTIONS), index=False)
    scores = metric.compute(predictions=predictions, references=labels)
    if kind == REGRESSION:
        scores["pearson_low"], scores["pearson_high"] = correlation_interval(scores["pearson"], len(labels))
        found = score_with_interval(np.abs(predictions - labels))
        scores["mae_low"], scores["mae_high"] = found["low"], found["high"]
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


def write_metrics(facts: dict, *, run_dir: str) -> None:
    """Writes `report/metrics.json`: the `scores` of a run, and whatever else was found."""
    Path(run_dir, REPORT).mkdir(exist_ok=True)
    with whole_file(Path(run_dir, RESULTS)) as path:
        path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def describe_scores(scores: dict) -> str:
    """One line: the reported score with its interval, and those beside it."""
    main = "pearson" if "test_pearson" in scores else "accuracy"
    called = {"pearson": "Pearson correlation", "accuracy": "accuracy"}[main]
    beside = {"test_rmse": "RMSE", "test_f1_micro": "F1 micro", "test_f1_macro": "F1 macro"}
    beside |= {"test_window_accuracy": "accuracy per window", "test_vote_accuracy": "per document by vote"}
    if "test_confusion_matrix" in scores:
        del beside["test_f1_micro"]  # of one label a text this would be a class of that name
    others = ", ".join(f"{name} {scores[key]:.4f}" for key, name in beside.items() if key in scores)
    return (
        f"{scores['reported_split']} {called} {scores[f'test_{main}']:.4f} (95 % interval "
        f"{scores[f'test_{main}_low']:.4f} to {scores[f'test_{main}_high']:.4f}, {scores['test_samples']} rows), "
        f"{others}"
    )


def write_report(
    trainer: Trainer,
    classifier: TextClassifier,
    splits: DatasetDict,
    *,
    results: dict,
    reported_split: str,
    run_dir: str,
    started: float,
    encoder: str,
    from_scratch: bool,
    source: dict,
    language: str | None = None,
    license: str | None = None,
    probes: str | None = None,
    figures: bool = True,
    windows: bool = False,
    progress: bool = False,
) -> dict:
    """Scores the reported split and writes what a run leaves beside its model.

    That is `run.json`, `report/` (predictions, metrics, figures and a page), the model card `README.md` and, where it
    is possible, the stock export in `stock/`.

    Args:
        trainer: that trained.
        classifier: loaded from the saved folder.
        splits: train, validation and test with raw `text` and `label`.
        results: what is known by now: `train_*`, `before_*` and `eval_*`.
        reported_split: the name that the test rows have in the source.
        run_dir: folder of the run.
        started: when the run began, in seconds of `time.time()`.
        encoder: what the model started from.
        from_scratch: its architecture alone, with random weights.
        source: `dataset`, `config` and `files`, for the record.
        language: of the texts, for the card.
        license: of the model, for the card.
        probes: file for `bertcls.run_probes`.
        figures: draw figures and the page.
        windows: as in `score_reported`.
        progress: show a progress bar.

    Returns:
        the content of `metrics.json`: `headline`, `scores`, `task`, `source`, `model`, `arguments`, `run`, `audit`,
        `stock`, what `gather_findings` gives, and `probes`.
    """
    test, folder = splits["test"], Path(run_dir, REPORT)
    scores = results | score_reported(classifier, test, run_dir=run_dir, windows=windows, progress=progress)
    scores |= {"reported_split": reported_split, "seed": trainer.args.seed, "train_samples": len(splits["train"])}
    audit = Path(run_dir, AUDIT)
    config = classifier.model.config
    facts = {
        "headline": "",
        "scores": scores,
        "task": {
            "problem_type": config.problem_type,
            "labels": label_names_of(test),
            "reported_split": reported_split,
            "rows": {name: len(split) for name, split in splits.items()},
            "label_shares": {
                name: {} if config.problem_type == REGRESSION else label_shares(split)
                for name, split in splits.items()
            },
        },
        "source": source | {"revision": _revision(splits["train"])},
        "model": {
            "encoder": encoder,
            "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
            "pooling": config.pooling,
            "contract": {name: getattr(config, name) for name in CONTRACT},
        },
        "arguments": {name: _plain(getattr(trainer.args, name)) for name in _ARGUMENTS}
        | {"from_scratch": from_scratch},
        "run": write_record(trainer, run_dir=run_dir, started=started),
        "audit": _audited(json.loads(audit.read_text())) if audit.is_file() else None,
    }
    write_metrics(facts, run_dir=run_dir)  # whatever happens to the rest
    texts = cleaned_texts(texts_of(test), config.cleaning)
    tokens = _token_counts(texts, classifier.tokenizer)
    table = pd.read_parquet(Path(run_dir, PREDICTIONS))
    facts |= gather_findings(classifier, splits, table, texts, tokens)
    facts["headline"] = headline(scores["test_mae" if config.problem_type == REGRESSION else "test_accuracy"], facts)
    if probes is not None and config.pair_truncation is not None:
        warn("--probes holds single texts, and this model reads pairs; they are left out.")
    elif probes is not None:
        facts["probes"] = run_probes(probes, classifier)
    try:
        facts["stock"] = export_stock(run_dir, str(Path(run_dir, STOCK)), texts_of(test)[:_STOCK_TEXTS])
    except (OSError, ValueError) as error:  # the run is whole without it
        warn(f"No stock export: {error}")
        facts["stock"] = {"exported": False, "reason": "It could not be written."}
    write_metrics(facts, run_dir=run_dir)
    write_card(facts, run_dir, language=language, license=license)
    if figures:
        _draw(facts, trainer, folder, test_tokens=tokens)
        write_page(facts, folder)
    return facts


def _audited(findings: dict) -> dict:
    """The table of an audit, and whether the run trained with what leaks into another split."""
    leaked = findings["leaked"] and not findings.get("taken_out")
    return {"lines": format_audit(findings).splitlines(), "leaked": leaked}


def describe_report(facts: dict, *, run_dir: str) -> str:
    """What to tell the user at the end: the score, the headline, where the model is, and how to use it."""
    pair = facts["model"]["contract"]["pair_truncation"] is not None
    example = ("A text.", "Another.") if pair else "A film that ends well."
    lines = [describe_scores(facts["scores"]), facts["headline"]]
    if Path(run_dir, REPORT, "report.html").is_file():
        lines.append(f"The report is in {Path(run_dir, REPORT, 'report.html')}.")
    lines += [
        f"The model is in {run_dir}. Use it:",
        '  python -c "from bertcls import TextClassifier; '
        f"print(TextClassifier.from_pretrained('{Path(run_dir).as_posix()}').predict({example!r}))\"",
    ]
    return "\n".join(dict.fromkeys(lines))


def _token_counts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of each text without special ones, a thousand texts at a time."""
    counts: list[int] = []
    for start in range(0, len(texts), 1000):
        part = tokenizer(texts[start : start + 1000], add_special_tokens=False, verbose=False)["input_ids"]
        counts += map(len, part)
    return counts


def _draw(facts: dict, trainer: Trainer, folder: Path, *, test_tokens: list[int]) -> None:
    """The figures that `write_page` shows, as far as there is something to draw."""
    tokens = {}
    for name, dataset in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
        tokens[name] = list(dict(zip(dataset["example_id"][:], dataset["tokens"][:])).values())  # windows once
    tokens["test"] = test_tokens
    special = 2 if facts["model"]["contract"]["pair_truncation"] is None else 3
    tokens = {name: [count + special for count in counts] for name, counts in tokens.items()}  # as in a window
    draw_curves(trainer.state.log_history, folder / "curves.png")
    draw_lengths(tokens, facts["model"]["contract"]["max_length"], folder / "lengths.png")
    if facts["task"]["label_shares"]["test"]:
        draw_shares(facts["task"]["label_shares"], folder / "label_shares.png")
    if any(name.startswith("before_") for name in facts["scores"]):
        draw_before_after(facts["scores"], folder / "before_after.png")
    if "calibration" in facts:
        decisions = facts["task"]["problem_type"] == MULTI_LABEL
        draw_reliability(facts["calibration"]["bins"], folder / "reliability.png", decisions=decisions)
    if "test_confusion_matrix" in facts["scores"]:
        draw_confusion(facts["scores"]["test_confusion_matrix"], facts["task"]["labels"], folder / "confusion.png")
    if "coverage" in facts.get("calibration", {}):
        draw_coverage(facts["calibration"]["coverage"], folder / "coverage.png")


def _revision(dataset: Dataset) -> str | None:
    """The commit on the Hub that a data set was loaded from, where it says so."""
    for address in dataset.info.download_checksums or {}:
        if found := re.search(r"@([0-9a-f]{40})(?:/|$)", address):
            return found[1]
    return None


def _plain(value):
    return getattr(value, "value", value)


def write_record(trainer: Trainer | None, *, run_dir: str, started: float, seed: int | None = None) -> dict:
    """Writes how a run was made to `run.json`, as this process saw it; not pushed, since it may hold local paths.

    Args:
        trainer: that trained; `None` for a model that no Trainer trained.
        run_dir: where the file goes.
        started: when the run began, in seconds of `time.time()`.
        seed: `None` takes the Trainer's.

    Returns:
        `command` (without tokens of the Hub), `git_commit` of the recipe's repository (with `-dirty` where its files
        were changed; `None` outside of one), `seed`, `versions`, `wall_seconds`, and `peak_memory_gib` of the process
        since it began (earlier ones of `--seeds` included) and of its accelerator in this run. Of a Trainer also
        `device`, `processes`, `cpu_threads` of each and `precision`; `train_seconds`, with evaluations, and over
        these `train_examples_per_second` and `train_tokens_per_second` (tokens of windows without padding; `None`
        for a resumed run); and `padding_share` of the training batches.
    """
    record = {
        "command": _without_tokens(sys.argv),
        "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        "seed": trainer.args.seed if seed is None else seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "wall_seconds": round(time.time() - started, 1),
        **({} if trainer is None else _training_record(trainer)),
        "peak_memory_gib": {
            "process": round(peak_memory() / 2**30, 2),
            "accelerator": None
            if trainer is None or trainer.args.device.type == "cpu"
            else round(torch.accelerator.max_memory_allocated() / 2**30, 2),
        },
    }
    Path(run_dir, RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _training_record(trainer: Trainer) -> dict:
    args, state, dataset = trainer.args, trainer.state, trainer.train_dataset
    summary = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), {})
    seconds = summary.get("train_runtime")
    rates = {"train_examples_per_second": None, "train_tokens_per_second": None}
    if seconds and not args.resume_from_checkpoint:
        per_second = state.epoch / seconds
        rates = {
            "train_examples_per_second": round(len(dataset) * per_second, 2),
            "train_tokens_per_second": round(int(np.sum(dataset["length"][:])) * per_second, 1),
        }
    padding = [entry["padding_share"] for entry in state.log_history if "padding_share" in entry]
    return {
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "cpu_threads": torch.get_num_threads(),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "train_seconds": seconds,
        **rates,
        "padding_share": round(float(np.mean(padding)), 4) if padding else None,
    }


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
    """Writes all scores of a further pretraining to `report/metrics.json`.

    Args:
        results: of the whole run; `random_head_weights` and `head_warmup_steps` say what "before" means.
        run_dir: where the file goes.

    Returns:
        what to tell the user: loss and perplexity before and after, and what the saved encoder is good for.
    """
    write_metrics({"scores": results}, run_dir=run_dir)
    lines = [
        f"{when}: loss {results[f'{prefix}_masked_loss']:.4f}, perplexity {results[f'{prefix}_perplexity']:.2f}, "
        f"accuracy {results[f'{prefix}_masked_accuracy']:.4f}"
        for when, prefix in (("before", "before"), ("after", "eval"))
        if f"{prefix}_masked_loss" in results
    ]
    if results["random_head_weights"]:
        steps = results["head_warmup_steps"]
        alone = f"was trained alone for {steps} steps before anything was measured" if steps else "had no warm-up"
        lines.insert(0, f"The head was random and {alone}.")
    return "\n".join(
        [
            f"{results['eval_masked_tokens']} masked tokens of validation, the same before and after:",
            *lines,
            f"The encoder is in {run_dir}, {'with' if results['pooler_kept'] else 'without'} a pooler. Fine-tune it:",
            f"  accelerate launch recipes/sst2_finetune.py --model_name_or_path {Path(run_dir).as_posix()}",
        ]
    )
