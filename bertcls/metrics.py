"""Scores of a classifier, computed here: nothing is downloaded."""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from transformers import EvalPrediction, PreTrainedConfig, TrainingArguments

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL

_TEMPERATURE_DEVIATION = 0.3  # of the prior of its logarithm
_UNSURE_TEXTS = 20  # with the label, of which a threshold counts as much as 0.5
BEST = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "f1_micro", REGRESSION: "r2"}  # of each, more is better
_TAKEN = ("samples", "runtime", "per_class", "confusion_matrix", "window_accuracy", "vote_accuracy")  # other scores


def make_compute_metrics(
    config: PreTrainedConfig, training_args: TrainingArguments | None = None, *, own: dict[str, Callable] | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for Trainer: the averaged scores and, for classes, the exact `log_loss`, and the
    `calibrated_loss` that it becomes by the temperature that is best for these rows.

    Trainer's own `eval_loss` is a mean over batches, so it depends on their size and on the number of processes;
    `log_loss` does not. Predictions are logits `[examples, num_labels]`, label_ids `(labels, example_ids)`. A
    multi-label task is scored at 0.5 here; its thresholds are tuned after training.

    The `metric_for_best_model` of `training_args` is checked here, so that it is not after the first epoch. `own` are
    further metrics by name, functions of labels and predictions as scikit-learn's.

    Raises:
        ValueError: `metric_for_best_model` is none of the metrics, label smoothing of other than classes, or a metric
            of one's own that has the name of another score.
    """
    kind = config.problem_type or SINGLE_LABEL
    from bertcls.scorers import TaskMetric  # not for --help

    metric, own = TaskMetric(kind, config.id2label.values()), own or {}
    known = ["loss", *([] if kind == REGRESSION else ["log_loss", "calibrated_loss"]), *metric.shown]
    if taken := sorted({*known, *_TAKEN} & {*own}):
        raise ValueError(
            f"Found a metric of one's own called {taken[0]}; expected a name that no score has. Rename it."
        )
    known += own
    if training_args is not None:
        asked = training_args.metric_for_best_model
        if asked == "auto":  # for `prepare_training` to replace, where there is one
            training_args.metric_for_best_model, training_args.chosen_by_rows = BEST[kind], True
        elif asked is not None and asked.removeprefix("eval_") not in known:
            raise ValueError(f"Found --metric_for_best_model {asked}; expected one of {', '.join(known)}.")
        if training_args.label_smoothing_factor and kind != SINGLE_LABEL:
            raise ValueError(f"Found --label_smoothing_factor with {kind}; expected one class a text. Leave it out.")

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        logits, (labels, _) = evaluation.predictions, evaluation.label_ids
        losses = {}
        if kind == REGRESSION:
            predictions = logits[:, 0]
        else:
            labels = labels.astype(np.int64)
            predictions = logits.argmax(-1) if labels.ndim == 1 else (logits >= 0).astype(np.int64)
            losses["log_loss"] = log_loss(logits, labels)
            losses["calibrated_loss"] = log_loss(logits / fit_temperature(logits, labels), labels)
        scores = metric.compute(predictions=predictions, references=labels)
        return {name: scores[name] for name in metric.shown} | losses | own_scores(own, labels, predictions)

    return compute_metrics


def own_scores(own: dict[str, Callable] | None, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Scores by metrics of the user's own: functions of labels and predictions, by name."""
    return {name: float(function(labels, predictions)) for name, function in (own or {}).items()}


def tune_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """Per label the probability from which on giving it has the best F1, from those of held-out examples and labels of
    0 and 1, both `[examples, num_labels]`.

    The fewer texts have a label, the nearer to 0.5: by 20 / (20 + texts), with which few texts do no harm.

    >>> tune_thresholds(np.array([[0.4], [0.3], [0.1], [0.05]] * 10), np.array([[1], [1], [0], [0]] * 10))
    [0.35]
    """
    thresholds = []
    for column, truth in zip(probabilities.T, labels.T):
        order = np.argsort(-column, kind="stable")
        ranked, hits = column[order], np.cumsum(truth[order])
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + truth.sum())
        f1[:-1][ranked[:-1] == ranked[1:]] = 0  # a threshold cannot part equal probabilities
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        known = truth.sum() / (truth.sum() + _UNSURE_TEXTS)
        thresholds.append(float(known * (ranked[best] + below) / 2 + (1 - known) * 0.5))
    return thresholds


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the right class, of several labels of the right decisions, in nats: of logits
    `[examples, num_labels]` and class numbers `[examples]`, or 0 and 1 `[examples, num_labels]`.

    >>> round(log_loss(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.6931
    >>> round(log_loss(np.array([[0.0, 0.0]]), np.array([[1, 0]])), 4)
    0.6931
    """
    logits = logits.astype(np.float64)
    if labels.ndim == 2:
        return float(np.mean(np.logaddexp(0, logits) - labels * logits))
    return -float(np.mean(log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes the probabilities of held-out rows most likely (Guo et al., 2017).

    The most probable class stays the same, and of several labels which of them have 0.5 or more. Between 0.2 and 10,
    and the nearer to 1 the fewer rows there are: its logarithm has a normal prior with deviation 0.3, with which few
    rows do no harm (by simulation: from 20 rows on less than 0.02 nats where the model is calibrated already).

    >>> sure = np.array([[2.0, -2.0]] * 1000)  # 98 % sure each time, right 7 times of 10
    >>> round(fit_temperature(sure, np.array([0] * 700 + [1] * 300)), 1)
    4.3
    """
    scale = 2 * _TEMPERATURE_DEVIATION**2
    found = minimize_scalar(
        lambda power: len(labels) * log_loss(logits / math.exp(power), labels) + power**2 / scale,
        bounds=(math.log(0.2), math.log(10)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(found.x))
