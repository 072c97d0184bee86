"""Metrics of evaluate that are computed here: nothing is downloaded. Apart from `metrics`, which all programs import,
since evaluate and scikit-learn take long to import."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


class _LocalMetric(evaluate.Metric):
    """What the metrics below share: nothing is downloaded, and nothing is written to disk."""

    kind: datasets.Value | datasets.List = datasets.Value("int64")  # of a prediction and of a reference

    def __init__(self, label_names: Sequence[str] = (), **kwargs):
        self.label_names = list(label_names)
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": self.kind, "references": self.kind})
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=features)


class ClassificationMetric(_LocalMetric):
    """Accuracy, precision, recall and F1 (macro, weighted, per class) and confusion counts of a single-label task.

    A class that was never predicted has precision 0. Scores of classes stand in a table of their own, `per_class`,
    since a class may be called `macro`. `confusion_matrix[i][j]` counts the examples of class i predicted as class j.

    Args:
        label_names: names of the classes, in the order of their numbers.

    >>> scores = ClassificationMetric(["no", "yes"]).compute(predictions=[1, 1, 0, 1], references=[1, 0, 0, 1])
    >>> scores["accuracy"], scores["per_class"]["no"]["recall"], scores["confusion_matrix"]
    (0.75, 0.5, [[1, 1], [0, 2]])
    """

    def _compute(self, predictions, references) -> dict:
        numbers = list(range(len(self.label_names)))
        scores = _f_scores(references, predictions, self.label_names, ("macro", "weighted"), labels=numbers)
        scores["accuracy"] = float(np.mean(np.asarray(predictions) == np.asarray(references)))
        scores["confusion_matrix"] = confusion_matrix(references, predictions, labels=numbers).tolist()
        return scores


class MultiLabelMetric(_LocalMetric):
    """Scores of a multi-label task, from 0 and 1 `[examples, num_labels]`.

    `accuracy` is the share of examples whose set of labels is exactly right (an empty set is a legal answer);
    precision, recall and F1 are micro (over all decisions), macro (mean over labels) and per label. What was never
    predicted has precision 0.

    >>> scores = MultiLabelMetric(["a", "b"]).compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
    >>> scores["accuracy"], scores["f1_micro"], scores["per_class"]["b"]["f1"]
    (0.5, 0.8, 1.0)
    """

    kind = datasets.List(datasets.Value("int64"))

    def _compute(self, predictions, references) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        scores = _f_scores(references, predictions, self.label_names, ("micro", "macro"))
        scores["accuracy"] = float((predictions == references).all(-1).mean())
        return scores


def _f_scores(references, predictions, label_names: list[str], averages: tuple[str, ...], **options) -> dict:
    """Precision, recall and F1 by each way of averaging, and `per_class` with the support beside them."""
    names = ("precision", "recall", "f1", "support")
    found = precision_recall_fscore_support(references, predictions, average=None, zero_division=0, **options)
    rows = [dict(zip(names, (value.item() for value in values))) for values in zip(*found)]
    scores: dict = {"per_class": dict(zip(label_names, rows))}
    for average in averages:
        values = precision_recall_fscore_support(references, predictions, average=average, zero_division=0, **options)
        scores |= {f"{name}_{average}": float(value) for name, value in zip(names[:3], values)}
    return scores


class RegressionMetric(_LocalMetric):
    """Root of the mean squared error, mean absolute error, R squared, and the correlations of Pearson and Spearman.

    A correlation with a constant is 0 here, so that it can be compared.

    >>> scores = RegressionMetric().compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])
    >>> round(scores["rmse"], 3), scores["r2"], scores["spearman"]
    (0.577, 0.5, 1.0)
    """

    kind = datasets.Value("float64")

    def _compute(self, predictions, references) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        error = predictions - references
        spread = np.square(references - references.mean()).sum()
        columns = pd.Series(predictions), pd.Series(references)
        return {
            "rmse": float(np.sqrt(np.square(error).mean())),
            "mae": float(np.abs(error).mean()),
            "r2": float(1 - np.square(error).sum() / spread) if spread else 0.0,
        } | {how: float(np.nan_to_num(columns[0].corr(columns[1], method=how))) for how in ("pearson", "spearman")}
