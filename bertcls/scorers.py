"""The metric of a task, for evaluate: computed here, and apart from `metrics`, which all programs import, since that
and scikit-learn take long to import."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL


class TaskMetric(evaluate.Metric):
    """The scores of a problem type: nothing is downloaded, and nothing is written to disk.

    Of classes precision, recall and F1 stand by average and, in a table of their own, `per_class` (a class may be
    called `macro`); what was never predicted has precision 0. The averages are over the classes that occur among
    references or predictions, as scikit-learn's. `confusion_matrix[i][j]` counts the examples of class i
    predicted as class j. Of several labels, 0 and 1 `[examples, num_labels]`, `accuracy` is the share of examples with
    exactly the right set (an empty set is a legal answer). Of numbers a correlation with a constant is 0 here, so that
    it can be compared. `label_names` are in the order of their numbers.

    >>> metric = TaskMetric(SINGLE_LABEL, ["no", "yes"])
    >>> scores = metric.compute(predictions=[1, 1, 0, 1], references=[1, 0, 0, 1])
    >>> scores["accuracy"], scores["per_class"]["no"]["recall"], scores["confusion_matrix"]
    (0.75, 0.5, [[1, 1], [0, 2]])
    >>> scores = TaskMetric(MULTI_LABEL, ["a", "b"]).compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
    >>> scores["accuracy"], scores["f1_micro"], scores["per_class"]["b"]["f1"]
    (0.5, 0.8, 1.0)
    >>> scores = TaskMetric(REGRESSION).compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])
    >>> round(scores["rmse"], 3), scores["r2"], scores["spearman"]
    (0.577, 0.5, 1.0)
    """

    def __init__(self, kind: str, label_names: Sequence[str] = (), **kwargs):
        self.kind, self.label_names = kind, list(label_names)
        self.averages = {SINGLE_LABEL: ("macro", "weighted"), MULTI_LABEL: ("micro", "macro")}.get(kind, ())
        super().__init__(keep_in_memory=True, **kwargs)

    @property
    def shown(self) -> list[str]:
        """Those of its scores that are shown of every epoch."""
        if self.kind == REGRESSION:
            return ["rmse", "mae", "r2", "pearson", "spearman"]
        return ["accuracy", *(f"{score}_{how}" for how in self.averages for score in ("precision", "recall", "f1"))]

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64" if self.kind == REGRESSION else "int64")
        row = datasets.List(number) if self.kind == MULTI_LABEL else number
        features = dict.fromkeys(("predictions", "references"), row)
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        if self.kind == REGRESSION:
            error, columns = predictions - references, (pd.Series(predictions), pd.Series(references))
            spread = np.square(references - references.mean()).sum()
            scores = {"rmse": np.sqrt(np.square(error).mean()), "mae": np.abs(error).mean()}
            scores["r2"] = 1 - np.square(error).sum() / spread if spread else 0.0
            scores |= {how: np.nan_to_num(columns[0].corr(columns[1], method=how)) for how in ("pearson", "spearman")}
            return {name: float(value) for name, value in scores.items()}
        names, numbers = ("precision", "recall", "f1", "support"), range(len(self.label_names))
        options = {"labels": [*numbers], "zero_division": 0}
        found = precision_recall_fscore_support(references, predictions, average=None, **options)
        rows = [dict(zip(names, (value.item() for value in values))) for values in zip(*found)]
        scores: dict = {"per_class": dict(zip(self.label_names, rows))}
        if self.kind == SINGLE_LABEL:
            options["labels"] = np.union1d(references, predictions)
        for average in self.averages:
            values = precision_recall_fscore_support(references, predictions, average=average, **options)
            scores |= {f"{name}_{average}": float(value) for name, value in zip(names[:3], values)}
        scores["accuracy"] = float(accuracy_score(references, predictions))
        if self.kind == SINGLE_LABEL:
            scores["confusion_matrix"] = confusion_matrix(references, predictions, labels=[*numbers]).tolist()
        return scores
