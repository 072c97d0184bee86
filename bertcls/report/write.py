"""What a run leaves behind beside the model."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase, Trainer

from bertcls.audit import format_audit
from bertcls.data.labels import label_names_of, label_shares
from bertcls.export.stock import export_stock
from bertcls.inference import TextClassifier, texts_of
from bertcls.layout import AUDIT, PREDICTIONS, REPORT, RESULTS, STOCK
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION
from bertcls.process import warn, whole_file
from bertcls.report.baseline import cleaned_texts
from bertcls.report.card import write_card
from bertcls.report.figures import (
    draw_before_after,
    draw_confusion,
    draw_coverage,
    draw_curves,
    draw_lengths,
    draw_reliability,
    draw_shares,
)
from bertcls.report.findings import gather_findings, headline
from bertcls.report.page import write_page
from bertcls.report.record import revision_of, write_record
from bertcls.report.scores import describe_scores, score_reported
from bertcls.report.slices import run_probes

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


def write_metrics(facts: dict, *, run_dir: str) -> None:
    """Writes `report/metrics.json`: the `scores` of a run, and whatever else was found."""
    Path(run_dir, REPORT).mkdir(exist_ok=True)
    with whole_file(Path(run_dir, RESULTS)) as path:
        path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    own: dict[str, Callable] | None = None,
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
        own: as in `score_reported`.
        progress: show a progress bar.

    Returns:
        the content of `metrics.json`: `headline`, `scores`, `task`, `source`, `model`, `arguments`, `run`, `audit`,
        `stock`, what `gather_findings` gives, and `probes`.
    """
    test, folder = splits["test"], Path(run_dir, REPORT)
    scores = results | score_reported(classifier, test, run_dir=run_dir, own=own, progress=progress)
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
        "source": source | {"revision": revision_of(splits["train"])},
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
    pairs = facts["model"]["contract"]["pair_truncation"] is not None
    special = trainer.processing_class.num_special_tokens_to_add(pair=pairs)
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


def _plain(value):
    return getattr(value, "value", value)
