"""Scores of the reported rows, and the table of predictions they come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import pearsonr

from bertcls.data.labels import label_array, label_names_of, problem_type_of
from bertcls.inference import TextClassifier, reaches, texts_of
from bertcls.layout import PREDICTIONS, REPORT
from bertcls.metrics import own_scores
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.formats import ERRORS, MANY_CLASSES, as_cell, format_score, score_names
from bertcls.report.statistics import score_with_interval
from bertcls.scorers import TaskMetric

_QUIET = ("precision_macro", "recall_macro", "spearman", "r2", "mae", "log_loss")  # scores that the console leaves out


def score_reported(
    classifier: TextClassifier | TfidfClassifier,
    dataset: Dataset,
    *,
    run_dir: str,
    own: dict[str, Callable] | None = None,
    progress: bool = False,
) -> dict:
    """Scores the reported rows from their raw text, `test_*`, and writes `report/predictions.parquet`, their source.

    Of more than 50 classes the scores and counts of each go to `report/classes.csv` and `report/confusion.csv`.
    Where texts were read in several windows, also what is often reported in place of a score per document:
    `test_window_accuracy`, each window judged by its document's label, and `test_vote_accuracy`, documents by the
    label that most of their windows have.
    """
    names, labels, kind = label_names_of(dataset), label_array(dataset), problem_type_of(dataset)
    windows_of: list[np.ndarray] = []
    if kind == SINGLE_LABEL and hasattr(classifier, "logits_with_windows"):
        logits, windows_of = classifier.logits_with_windows(texts_of(dataset), progress=progress)
        probabilities = classifier.to_probabilities(logits)
    else:
        probabilities = classifier.probabilities(texts_of(dataset), progress=progress)
    table, predictions = answer_table(dataset, probabilities, classifier.thresholds)
    Path(run_dir, REPORT).mkdir(exist_ok=True)
    table.to_parquet(Path(run_dir, PREDICTIONS), index=False)
    scores = own_scores(own, labels, predictions)
    scores |= TaskMetric(kind, names).compute(predictions=predictions, references=labels)
    if len(names) > MANY_CLASSES:
        cells = [*map(as_cell, names)]
        per_class = pd.DataFrame(scores.pop("per_class").values(), cells).rename(columns={"support": "rows"})
        per_class.to_csv(Path(run_dir, REPORT, "classes.csv"), index_label="class")
        if (counts := scores.pop("confusion_matrix", None)) is not None:
            pd.DataFrame(counts, cells, cells).to_csv(Path(run_dir, REPORT, "confusion.csv"), index_label="true class")
    if kind == REGRESSION:
        ends = pearsonr(labels, predictions).confidence_interval() if scores["pearson"] else (-1, 1)  # 0: a constant
        scores["pearson_low"], scores["pearson_high"] = map(float, ends)
    measured, interval = "mae" if kind == REGRESSION else "accuracy", score_with_interval(row_values(table))
    scores |= {f"{measured}_{end}": interval[end] for end in ("low", "high")}
    if any(len(rows) > 1 for rows in windows_of):
        windows_of = [*map(classifier.to_probabilities, windows_of)]  # of each [windows, num_labels]
        winners = [rows.argmax(-1) for rows in windows_of]
        counts = [np.bincount(found, minlength=len(names)) for found in winners]
        votes = [(count + rows.mean(0)).argmax() for count, rows in zip(counts, windows_of)]
        scores["window_accuracy"] = float(np.mean(np.concatenate(winners) == labels.repeat([*map(len, winners)])))
        scores["vote_accuracy"] = float(np.mean(labels == votes))
    scores["samples"] = len(labels)
    return {f"test_{name}": value for name, value in scores.items()}


def answer_table(
    dataset: Dataset, probabilities: np.ndarray, thresholds: list[float] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Answers to the rows of a data set: a table, and the predictions as `label_array` gives labels.

    Its columns: `example_id`, where there is one `id`, `text`, for pairs `text_pair`, `label` and `prediction` (names,
    lists of names, or numbers), and for every class `probability_<name>`.
    """
    names, labels, kind = label_names_of(dataset), label_array(dataset), problem_type_of(dataset)
    columns = [name for name in ("example_id", "id", "text", "text_pair") if name in dataset.column_names]
    table = dataset.select_columns(columns).to_pandas()
    if kind == REGRESSION:
        predictions = probabilities[:, 0]
        return table.assign(label=labels, prediction=predictions), predictions
    if kind == MULTI_LABEL:
        predictions = reaches(probabilities, thresholds).astype(np.int64)
        for column, rows in (("label", labels), ("prediction", predictions)):
            table[column] = [[names[number] for number in np.flatnonzero(row)] for row in rows]
    else:
        predictions = probabilities.argmax(-1)
        table["label"], table["prediction"] = np.array(names)[labels], np.array(names)[predictions]
    added = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in names])
    return pd.concat([table, added], axis=1), predictions


def row_values(table: pd.DataFrame) -> np.ndarray:
    """Of each row of a table of predictions whether it is right (of several labels all), or how far off its number."""
    if pd.api.types.is_float_dtype(table["label"]):
        return (table["prediction"] - table["label"]).abs().to_numpy()
    labels = table[["label", "prediction"]].map(lambda label: label if isinstance(label, str) else tuple(label))
    return (labels["label"] == labels["prediction"]).to_numpy(bool)


def scores_before(log_history: list[dict]) -> dict:
    """Scores of the untrained model, `before_*`, from the log of a Trainer with `eval_on_start`; none where it is off.

    >>> scores_before([{"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.5, "epoch": 0}, {"step": 9, "eval_loss": 0.1}])
    {'before_loss': 0.7, 'before_accuracy': 0.5}
    """
    first = next((entry for entry in log_history if entry["step"] == 0 and "eval_loss" in entry), {})
    return {key.replace("eval_", "before_"): value for key, value in first.items() if key.startswith("eval_")}


def describe_scores(scores: dict) -> str:
    """One line: the reported score with its interval, and those beside it."""
    main, rows = "pearson" if "test_pearson" in scores else "accuracy", scores["test_samples"]
    names = score_names(scores, MULTI_LABEL if "test_f1_micro" in scores else SINGLE_LABEL)
    score, low, high = (format_score(scores[f"test_{main}{end}"], rows) for end in ("", "_low", "_high"))
    parts = [f"{names[main]} {score} (95 % interval {low} to {high}, {rows:,} rows)"]
    for key, name in names.items():
        if key not in (main, *_QUIET) and f"test_{key}" in scores:
            parts.append(f"{name} {format_score(scores[f'test_{key}'], rows, error=key in ERRORS)}")
    return f"{scores['reported_split']} {', '.join(parts)}"
