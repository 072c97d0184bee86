"""Scores of the reported rows, and the table of predictions they come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset

from bertcls.data.labels import label_array, label_names_of, problem_type_of
from bertcls.inference import TextClassifier, reaches, texts_of
from bertcls.layout import PREDICTIONS, REPORT
from bertcls.metrics import ClassificationMetric, MultiLabelMetric, RegressionMetric, own_scores
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.statistics import correlation_interval, score_with_interval, wilson_interval


def score_reported(
    classifier: TextClassifier | TfidfClassifier,
    dataset: Dataset,
    *,
    run_dir: str,
    own: dict[str, Callable] | None = None,
    progress: bool = False,
) -> dict:
    """Scores the reported rows from their raw text, and writes `report/predictions.parquet`, the source of them.

    The file has the columns `example_id`, `text`, for pairs `text_pair`, `label` and `prediction` (names, lists of
    names, or numbers), and for every class `probability_<name>`.

    Args:
        classifier: a `TextClassifier` that was loaded from the saved folder, or a simple model.
        dataset: rows with raw `text`, `label` and `example_id`.
        run_dir: where the file goes.
        own: further metrics by name, as in `make_compute_metrics`.
        progress: show a progress bar.

    Returns:
        `test_*`: the scores of the task's metric, and the 95 % interval of the accuracy, or of Pearson's correlation
        and the mean absolute error. Where texts of one label were read in several windows, also what is often reported
        in place of a score per document: `test_window_accuracy`, each window judged by its document's label, and
        `test_vote_accuracy`, documents by the label that most of their windows have.
    """
    names, labels, kind = label_names_of(dataset), label_array(dataset), problem_type_of(dataset)
    windows_of: list[np.ndarray] = []
    if kind == SINGLE_LABEL and hasattr(classifier, "probabilities_with_windows"):
        probabilities, windows_of = classifier.probabilities_with_windows(texts_of(dataset), progress=progress)
    else:
        probabilities = classifier.probabilities(texts_of(dataset), progress=progress)
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
    if any(len(rows) > 1 for rows in windows_of):
        scores |= _window_scores(labels, windows_of)
    scores |= own_scores(own, labels, predictions)
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
