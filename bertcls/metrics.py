"""Scores of a classifier, computed here: nothing is downloaded."""

import math
from collections.abc import Callable
from statistics import NormalDist

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from transformers import EvalPrediction


class ClassificationMetric(evaluate.Metric):
    """Accuracy, precision, recall and F1 (macro, weighted, per class) and confusion counts of a single-label task.

    A class that was never predicted has precision 0. `confusion_matrix[i][j]` counts the examples of class i that
    were predicted as class j.

    Args:
        label_names: names of the classes, in the order of their numbers.

    >>> scores = ClassificationMetric(["no", "yes"]).compute(predictions=[1, 1, 0, 1], references=[1, 0, 0, 1])
    >>> scores["accuracy"], scores["recall_no"], scores["confusion_matrix"]
    (0.75, 0.5, [[1, 1], [0, 2]])
    """

    def __init__(self, label_names: list[str], **kwargs):
        self.label_names = list(label_names)
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Scores of a single-label classifier.",
            citation="",
            inputs_description="predictions and references: class numbers",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict:
        numbers = list(range(len(self.label_names)))
        scores = {}
        per_class = precision_recall_fscore_support(references, predictions, labels=numbers, zero_division=0)
        for name, values in zip(("precision", "recall", "f1", "support"), per_class):
            for label, value in zip(self.label_names, values):
                scores[f"{name}_{label}"] = value.item()
        for average in ("macro", "weighted"):  # after the classes: one may be called "macro"
            values = precision_recall_fscore_support(
                references, predictions, labels=numbers, average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), values):
                scores[f"{name}_{average}"] = float(value)
        scores["accuracy"] = float(np.mean(np.asarray(predictions) == np.asarray(references)))
        scores["confusion_matrix"] = confusion_matrix(references, predictions, labels=numbers).tolist()
        return scores


def make_compute_metrics(
    label_names: list[str], metric_for_best_model: str | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for Trainer: the averaged scores and the exact `log_loss`.

    Trainer's own `eval_loss` is a mean over batches, so it depends on their size and on the number of processes;
    `log_loss` does not. Predictions are logits `[examples, num_labels]`, label_ids `(labels, example_ids)`.

    Args:
        label_names: names of the classes, in the order of their numbers.
        metric_for_best_model: refused here where no evaluation will give it, and not after the first epoch.

    Raises:
        ValueError: `metric_for_best_model` is none of the metrics.
    """
    metric = ClassificationMetric(label_names)
    averages = [f"{score}_{how}" for how in ("macro", "weighted") for score in ("precision", "recall", "f1")]
    known = ["loss", "log_loss", "accuracy", *averages]
    if metric_for_best_model is not None and metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(f"Found --metric_for_best_model {metric_for_best_model}; expected one of {', '.join(known)}.")

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        labels, _ = evaluation.label_ids
        scores = metric.compute(predictions=evaluation.predictions.argmax(-1), references=labels)
        kept = {name: scores[name] for name in ["accuracy", *averages]}
        return kept | {"log_loss": log_loss(evaluation.predictions, labels)}

    return compute_metrics


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the right class, in nats; logits `[examples, num_labels]`.

    >>> round(log_loss(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.6931
    """
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    return float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share such as an accuracy (Wilson, 1927), right also near 0 and 1 and for few trials.

    Raises:
        ValueError: no trial.

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    if trials < 1:
        raise ValueError(f"An interval needs at least one trial, found {trials}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)
