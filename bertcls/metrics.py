"""Scores of a classifier, computed here: nothing is downloaded."""

import math
from collections.abc import Callable
from statistics import NormalDist

import datasets
import evaluate
import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binom, t
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from transformers import EvalPrediction

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL


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


class MultiLabelMetric(evaluate.Metric):
    """Scores of a multi-label task, from 0 and 1 `[examples, num_labels]`.

    `accuracy` is the share of examples whose set of labels is exactly right (an empty set is a legal answer);
    precision, recall and F1 are micro (over all decisions), macro (mean over labels) and per label. What was never
    predicted has precision 0.

    >>> scores = MultiLabelMetric(["a", "b"]).compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
    >>> scores["accuracy"], scores["f1_micro"], scores["f1_b"]
    (0.5, 0.8, 1.0)
    """

    def __init__(self, label_names: list[str], **kwargs):
        self.label_names = list(label_names)
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.List(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Scores of a multi-label classifier.",
            citation="",
            inputs_description="predictions and references: 0 or 1 per label",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions, references) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        scores = {}
        per_label = precision_recall_fscore_support(references, predictions, average=None, zero_division=0)
        for name, values in zip(("precision", "recall", "f1", "support"), per_label):
            scores |= {f"{name}_{label}": value.item() for label, value in zip(self.label_names, values)}
        for average in ("micro", "macro"):
            values = precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
            scores |= {f"{name}_{average}": float(value) for name, value in zip(("precision", "recall", "f1"), values)}
        scores["accuracy"] = float((predictions == references).all(-1).mean())
        return scores


class RegressionMetric(evaluate.Metric):
    """Root of the mean squared error, mean absolute error, R squared, and the correlations of Pearson and Spearman.

    A correlation with a constant is 0 here, so that it can be compared.

    >>> scores = RegressionMetric().compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])
    >>> round(scores["rmse"], 3), scores["r2"], scores["spearman"]
    (0.577, 0.5, 1.0)
    """

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Scores of a regression.",
            citation="",
            inputs_description="predictions and references: numbers",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        error = predictions - references
        spread = np.square(references - references.mean()).sum()
        varied = np.ptp(predictions) > 0 and np.ptp(references) > 0
        ranks = pd.Series(predictions).rank(), pd.Series(references).rank()
        return {
            "rmse": float(np.sqrt(np.square(error).mean())),
            "mae": float(np.abs(error).mean()),
            "r2": float(1 - np.square(error).sum() / spread) if spread else 0.0,
            "pearson": float(np.corrcoef(predictions, references)[0, 1]) if varied else 0.0,
            "spearman": float(np.corrcoef(*ranks)[0, 1]) if varied else 0.0,
        }


def make_compute_metrics(
    label_names: list[str], metric_for_best_model: str | None = None, *, problem_type: str = SINGLE_LABEL
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for Trainer: the averaged scores and, for classes, the exact `log_loss`.

    Trainer's own `eval_loss` is a mean over batches, so it depends on their size and on the number of processes;
    `log_loss` does not. Predictions are logits `[examples, num_labels]`, label_ids `(labels, example_ids)`. A
    multi-label task is scored at 0.5 here; its thresholds are tuned after training.

    Args:
        label_names: names of the classes, in the order of their numbers.
        metric_for_best_model: refused here where no evaluation will give it, and not after the first epoch.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`.

    Raises:
        ValueError: `metric_for_best_model` is none of the metrics.
    """
    if problem_type == REGRESSION:
        metric, kept = RegressionMetric(), ["rmse", "mae", "r2", "pearson", "spearman"]
    else:
        multi_label = problem_type == MULTI_LABEL
        metric = MultiLabelMetric(label_names) if multi_label else ClassificationMetric(label_names)
        averages = ("micro", "macro") if multi_label else ("macro", "weighted")
        kept = ["accuracy", *(f"{score}_{how}" for how in averages for score in ("precision", "recall", "f1"))]
    known = ["loss", *([] if problem_type == REGRESSION else ["log_loss"]), *kept]
    if metric_for_best_model is not None and metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(f"Found --metric_for_best_model {metric_for_best_model}; expected one of {', '.join(known)}.")

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        logits, (labels, _) = evaluation.predictions, evaluation.label_ids
        if problem_type == REGRESSION:
            return metric.compute(predictions=logits[:, 0], references=labels)
        if problem_type == MULTI_LABEL:
            scores = metric.compute(predictions=(logits >= 0).astype(np.int64), references=labels.astype(np.int64))
            loss = multi_label_loss(logits, labels)
        else:
            scores, loss = metric.compute(predictions=logits.argmax(-1), references=labels), log_loss(logits, labels)
        return {name: scores[name] for name in kept} | {"log_loss": loss}

    return compute_metrics


def best_metric(problem_type: str) -> str:
    """The metric to choose a model by where none is named; of each, more is better."""
    return {SINGLE_LABEL: "accuracy", MULTI_LABEL: "f1_micro", REGRESSION: "r2"}[problem_type]


def tune_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """Per label the probability from which on giving it has the best F1; 0.5 for a label that no example has.

    Args:
        probabilities: `[examples, num_labels]`, of examples that the model was not trained on.
        labels: 0 and 1 `[examples, num_labels]`.

    >>> tune_thresholds(np.array([[0.4], [0.3], [0.1], [0.05]]), np.array([[1], [1], [0], [0]]))
    [0.2]
    """
    thresholds = []
    for column, truth in zip(probabilities.T, labels.T):
        order = np.argsort(-column, kind="stable")
        ranked, hits = column[order], np.cumsum(truth[order])
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + truth.sum())
        f1[:-1][ranked[:-1] == ranked[1:]] = 0  # a threshold cannot part equal probabilities
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        thresholds.append(float((ranked[best] + below) / 2) if truth.any() else 0.5)
    return thresholds


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the right class, in nats; logits `[examples, num_labels]`.

    >>> round(log_loss(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.6931
    """
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    return float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))


def multi_label_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the right decisions, in nats; both `[examples, num_labels]`, labels 0 or 1.

    >>> round(multi_label_loss(np.array([[0.0, 0.0]]), np.array([[1, 0]])), 4)
    0.6931
    """
    return float(np.mean(np.logaddexp(0, logits.astype(np.float64)) - labels * logits))


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


def correlation_interval(correlation: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a Pearson correlation by Fisher's transformation; -1 to 1 for fewer than 4 trials.

    >>> [round(bound, 3) for bound in correlation_interval(0.8, 103)]
    [0.718, 0.86]
    """
    if trials < 4:
        return -1.0, 1.0
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(trials - 3)
    centre = math.atanh(min(max(correlation, -1 + 1e-12), 1 - 1e-12))
    return math.tanh(centre - half), math.tanh(centre + half)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean by Student's t, of two values or more.

    >>> [round(bound, 3) for bound in mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))]
    [0.446, 4.554]
    """
    half = t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes the probabilities of held-out rows most likely (Guo et al., 2017).

    The most probable class stays the same, and of several labels which of them have 0.5 or more. Between 0.2 and 10;
    1 where no row is wrong, since any rise of confidence would then seem right.

    Args:
        logits: `[examples, num_labels]`, of examples that the model was not trained on.
        labels: class numbers `[examples]`, or of a multi-label task 0 and 1 `[examples, num_labels]`.

    >>> sure = np.array([[2.0, -2.0]] * 10)  # 98 % sure each time, right 7 times of 10
    >>> round(fit_temperature(sure, np.array([0] * 7 + [1] * 3)), 2)
    4.72
    """
    multi_label = labels.ndim == 2
    loss = multi_label_loss if multi_label else log_loss
    if ((logits >= 0) == labels).all() if multi_label else (logits.argmax(-1) == labels).all():
        return 1.0
    found = minimize_scalar(
        lambda power: loss(logits / math.exp(power), labels),
        bounds=(math.log(0.2), math.log(10)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> tuple[float, list[dict]]:
    """Expected calibration error (Naeini et al., 2015), and its bins.

    Args:
        confidence: probabilities `[answers]`.
        right: `[answers]`, whether what had the probability is true.
        bins: of equal width, from 0 to 1.

    Returns:
        the mean over answers of |accuracy - confidence| of their bin; and of each bin that has answers `low`, `high`,
        `rows`, `confidence` and `accuracy`.

    >>> error, found = calibration(np.array([0.9, 0.8]), np.array([True, False]), bins=1)
    >>> round(error, 3), found[0]["rows"], found[0]["accuracy"]
    (0.35, 2, 0.5)
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "rows": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]
    return sum(row["rows"] * abs(row["accuracy"] - row["confidence"]) for row in found) / len(right), found


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """What a model reaches that may abstain: accuracy on the most confident rows.

    Args:
        confidence: `[examples]`, of the answer.
        right: `[examples]`, whether it is.

    Returns:
        for each share of rows to be answered `threshold` (the confidence to ask for), `coverage` (the share that
        reaches it), `accuracy` of these, and its 95 % interval `low` to `high`.

    >>> points = coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 1, 0]))
    >>> [(point["threshold"], point["coverage"], point["accuracy"]) for point in points][-1]
    (0.8, 0.5, 1.0)
    """
    points = []
    for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.5):
        threshold = float(np.sort(confidence)[::-1][max(math.ceil(share * len(confidence)) - 1, 0)])
        answered = confidence >= threshold
        hits, rows = int(right[answered].sum()), int(answered.sum())
        low, high = wilson_interval(hits, rows)
        point = {"threshold": threshold, "coverage": rows / len(confidence), "accuracy": hits / rows}
        points.append(point | {"low": low, "high": high})
    return points


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Exact two-sided p-value (McNemar, 1947) that two runs err equally often, from 0 and 1 `[examples]` each.

    Only examples that one gets right and the other wrong say anything; under equality each falls either way with
    probability one half.

    >>> round(mcnemar(np.array([1] * 8 + [0]), np.array([0] * 8 + [1])), 4)
    0.0391
    """
    wins, losses = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    trials, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * float(binom.cdf(fewer, trials, 0.5)))


def paired_permutation(one: np.ndarray, other: np.ndarray, draws: int = 9_999) -> float:
    """How often the means of two models' scores of the same rows would differ this much if the models were alike.

    The models are swapped at random in each row, `draws` times; all ways of it for up to 13 rows. 1 for one row, which
    tells nothing.

    >>> paired_permutation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))  # 2 of 8 ways
    0.25
    """
    differences, draw = one - other, np.random.default_rng(0)
    found, size = abs(differences.sum()) * (1 - 1e-12), len(differences)
    if size <= 13:
        swaps = np.arange(2**size)[:, None] >> np.arange(size) & 1
        return float((np.abs(differences.sum() - 2 * swaps @ differences) >= found).mean())
    as_far = 0
    for start in range(0, draws, 100):
        swaps = draw.random((min(100, draws - start), size)) < 0.5
        as_far += int((np.abs(differences.sum() - 2 * swaps @ differences) >= found).sum())
    return (1 + as_far) / (1 + draws)
