"""What a run leaves behind beside the model."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sklearn.metrics import confusion_matrix
from transformers import Trainer

from bertcls.audit import format_audit
from bertcls.data.columns import numbers_in
from bertcls.data.labels import label_names_of, label_shares
from bertcls.export.stock import export_stock
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.layout import AUDIT, FOLDS, PREDICTIONS, REPORT, RESULTS, STOCK
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import warn, whole_file
from bertcls.report import figures
from bertcls.report.advice import advise
from bertcls.report.card import data_name, write_card
from bertcls.report.findings import Baseline, gather_findings, headline, run_probes
from bertcls.report.folds import FoldAnswers, write_suspects
from bertcls.report.formats import shown_splits
from bertcls.report.page import PAGE, write_page
from bertcls.report.record import revision_of, write_record
from bertcls.report.scores import answer_table, describe_scores, score_reported

_STOCK_TEXTS = 16  # of the reported rows, on which the stock export is compared, in fp64
_COUNTED_TEXTS = 1_000  # whose encodings are in memory together
_PARTS = ("seed-", "fold-", "size-", "final", "plain")  # runs that are one of several
_EXAMPLE = 60  # characters of the text in the last line
_ARGUMENTS = """learning_rate num_train_epochs per_device_train_batch_size gradient_accumulation_steps
    lr_scheduler_type warmup_steps weight_decay max_grad_norm label_smoothing_factor optim metric_for_best_model
    seed""".split()  # of training, shown in the report and the card


def write_metrics(facts: dict, *, run_dir: str) -> None:
    """Writes `report/metrics.json`: the `scores` of a run, and whatever else was found."""
    Path(run_dir, REPORT).mkdir(exist_ok=True)
    with whole_file(Path(run_dir, RESULTS)) as path:
        path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_report(
    trainer: Trainer,
    classifier: TextClassifier,
    splits: DatasetDict,
    scores: dict,
    *,
    run_dir: str,
    started: float,
    encoder: str,
    from_scratch: bool,
    source: dict,
    chosen: dict,
    answers: FoldAnswers | None = None,
    as_it_came: Baseline | None = None,
    language: str | None = None,
    license: str | None = None,
    label_column: str | None = None,
    own: dict[str, Callable] | None = None,
    probes: str | None = None,
    draw: bool = True,
    beside: Callable[[TextClassifier, Dataset, pd.DataFrame], dict] | None = None,
) -> dict:
    """Scores the reported rows with the classifier, loaded from the saved folder; gives what `metrics.json` holds.

    Beside it are written `run.json`, `report/` (predictions, figures and a page), the model card `README.md` and,
    where it is possible, the stock export in `stock/`.

    Args:
        scores: what is known by now: `train_*`, `before_*` and `eval_*`, and `reported_split`, its name in the source.
        source: `dataset`, `config` and `files`.
        chosen: as `chosen_epoch` gives it.
        answers: of folds, for all rows; where there are no test rows, these are reported.
        as_it_came: the untrained encoder, a baseline.
        beside: gives further facts from the classifier, test and the table of its predictions; the `said` in them
            begins the report. The others are as for `finish_run`.
    """
    test, config, folder = splits["test"], classifier.model.config, Path(run_dir, REPORT)
    kind, reported, audit = config.problem_type, scores["reported_split"], Path(run_dir, AUDIT)
    folded = answers if reported == FOLDS else None
    progress = not trainer.args.disable_tqdm
    scores = scores | score_reported(folded or classifier, test, run_dir=run_dir, own=own, progress=progress)
    arguments, run = trainer.args.to_dict(), Path(run_dir).resolve()
    facts = {
        "headline": "",
        "scores": scores | {"seed": trainer.args.seed, "train_samples": len(splits["train"])},
        "chosen": chosen,
        "task": {
            "problem_type": kind,
            "labels": label_names_of(test),
            "label_column": label_column or "value",
            "reported_split": reported,
            "rows": {name: len(split) for name, split in splits.items()},
            "class_weights": config.class_weights,
            "label_shares": {name: {} if kind == REGRESSION else label_shares(rows) for name, rows in splits.items()},
        },
        "name": "/".join(run.parts[-2:] if run.name.startswith(_PARTS) else run.parts[-1:]),
        "data": data_name(source, run_dir),
        "source": source | {"revision": revision_of(splits["train"])},
        "model": {
            "encoder": encoder,
            "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
            "pooling": config.pooling,
            "contract": {name: getattr(config, name) for name in CONTRACT},
        },
        "arguments": {name: arguments[name] for name in _ARGUMENTS} | {"from_scratch": from_scratch},
        "run": write_record(trainer, run_dir=run_dir, started=started),
        "audit": _audited(json.loads(audit.read_text()), reported) if audit.is_file() else None,
    }
    write_metrics(facts, run_dir=run_dir)  # whatever happens to the rest
    texts, counts = texts_of(test), []
    for start in range(0, len(texts), _COUNTED_TEXTS):
        read = classifier.tokenize(texts[start : start + _COUNTED_TEXTS])
        counts += zip(read["tokens"], map(len, read["input_ids"]), read["cut"])
    tokens, windows, cut = map(list, zip(*counts))  # of each text; cut: tokens that no window holds
    table = pd.read_parquet(Path(run_dir, PREDICTIONS))
    fold_of = None if folded is None else folded.fold_of
    work = len(test) + 3 * chosen["texts"]  # in forward passes of a text
    options = {"as_it_came": as_it_came, "work": work, "fold_of": fold_of}
    facts |= gather_findings(classifier, splits, table, tokens, windows, **options)
    facts |= {} if beside is None else beside(classifier, test, table)
    if answers is not None and kind == SINGLE_LABEL:
        told = table if folded is not None else answer_table(splits["train"], answers.values)[0]
        facts["suspects"] = write_suspects(told, label_names_of(test), folder)
    facts["cut"] = sum(cut) / max(sum(tokens), 1)
    facts["advice"] = advise(facts, trainer.state.log_history)
    told = headline(scores["test_mae" if kind == REGRESSION else "test_accuracy"], facts, len(test))
    facts["headline"] = f"{facts.pop('said', '')} {told}".strip()
    if probes is not None and config.pair_truncation is not None:
        warn("--probes holds single texts, and this model reads pairs; they are left out.")
    elif probes is not None:
        facts["probes"] = run_probes(probes, classifier)
    try:
        facts["stock"] = export_stock(run_dir, str(Path(run_dir, STOCK)), texts[:_STOCK_TEXTS])
    except (OSError, ValueError) as error:  # the run is whole without it
        warn(f"No stock export: {error}")
        facts["stock"] = {"exported": False, "reason": "It could not be written."}
    facts["run"] = write_record(trainer, run_dir=run_dir, started=started)  # with the time of all this
    write_metrics(facts, run_dir=run_dir)
    write_card(facts, run_dir, language=language, license=license)
    if draw:
        _draw(facts, trainer, folder, table, test_tokens=tokens)
        write_page(facts, folder)
    return facts


def _audited(findings: dict, reported: str) -> dict:
    """The table of an audit under the report's names of splits, and whether the run trained with what leaks."""
    leaked = findings["leaked"] and not findings.get("taken_out")
    named = {key: shown_splits(part, reported) if isinstance(part, dict) else part for key, part in findings.items()}
    named["leaks"] = {
        " in ".join(shown_splits(dict.fromkeys(pair.split(" in ")), reported)): leak
        for pair, leak in findings["leaks"].items()
    }
    return {"lines": format_audit(named).splitlines(), "leaked": leaked}


def describe_report(facts: dict, *, run_dir: str, texts: list[Text]) -> str:
    """What to tell the user at the end: the score, the headline, where the model is, and how to use it on a text."""
    lines = [describe_scores(facts["scores"]), facts["headline"], facts["chosen"]["said"]]
    page = Path(run_dir, REPORT, PAGE)
    lines += [f"Next: {line}" for line in facts["advice"]]
    lines += [f"The report is in {page}."] if page.is_file() else []
    if reason := facts["stock"].get("reason"):
        lines.append(
            f"No copy for the stock classes of transformers: {reason} recipes/export_onnx.py makes one for others."
        )
    folder = json.dumps(Path(run_dir).as_posix(), ensure_ascii=False)
    example = _literal(next((text for text in texts if "".join(text).strip()), ""))
    code = f"from bertcls import TextClassifier; print(TextClassifier.from_pretrained({folder}).predict({example}))"
    lines += [f"The model is in {run_dir}. Use it:", f"  python -c {shlex.quote(code)}"]
    return "\n".join(dict.fromkeys(lines))


def _literal(text: Text) -> str:
    """A text, or pair, shortened, as it stands in a line of code.

    >>> _literal("So\\n" + "so " * 40), _literal(("a\\x1b", 'b"'))
    ('"So so so so so so so so so so so so so so so so so so so so…"', '("a", "b\\\\"")')
    """
    if not isinstance(text, str):
        return f"({', '.join(map(_literal, text))})"
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    line = line if len(line) <= _EXAMPLE else line[: _EXAMPLE - 1].rstrip() + "…"
    return json.dumps(line, ensure_ascii=False)


def _draw(facts: dict, trainer: Trainer, folder: Path, table: pd.DataFrame, *, test_tokens: list[int]) -> None:
    """The figures that `write_page` shows, as far as there is something to draw."""
    scores, task, contract = facts["scores"], facts["task"], facts["model"]["contract"]
    kind, labels, reported = task["problem_type"], task["labels"], task["reported_split"]
    special = trainer.processing_class.num_special_tokens_to_add(pair=contract["pair_truncation"] is not None)
    tokens = {}
    for name, dataset in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
        if dataset is not None:  # else too few rows to hold some out
            firsts = np.unique(numbers_in(dataset, "example_id"), return_index=True)[1]  # whose windows may be rows
            tokens[name] = numbers_in(dataset, "tokens")[firsts] + special
    tokens["test"] = [count + special for count in test_tokens]
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    figures.draw_curves(trainer.state.log_history, folder / "curves.png", best_step=best_step)
    figures.draw_lengths(shown_splits(tokens, reported), contract["max_length"], folder / "lengths.png")
    if kind == REGRESSION:
        truth, predictions = table["label"].to_numpy(), table["prediction"].to_numpy()
        figures.draw_predictions(truth, predictions, task["label_column"], folder / "predictions.png")
    else:
        figures.draw_shares(shown_splits(task["label_shares"], reported), folder / "label_shares.png")
    if any(name.startswith("before_") for name in scores):
        figures.draw_before_after(scores, folder / "before_after.png", rows=task["rows"]["validation"])
    if calibration := facts.get("calibration"):
        classes = None if kind == MULTI_LABEL else len(labels)
        figures.draw_reliability(calibration["bins"], folder / "reliability.png", classes=classes)
        if "coverage" in calibration:
            figures.draw_coverage(calibration["coverage"], folder / "coverage.png")
    if kind == SINGLE_LABEL:
        counts = confusion_matrix(table["label"], table["prediction"], labels=labels)
        figures.draw_confusion(counts, labels, folder / "confusion.png")
