from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as reference
from transformers import EvalPrediction

from bertcls import BertClsConfig, make_compute_metrics
from bertcls.metrics import ClassificationMetric, log_loss
from bertcls.report.statistics import wilson_interval

CONFIG = BertClsConfig(id2label={0: "a", 1: "b"}, problem_type="single_label_classification")
LABELS = [0, 0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 0, 1]


def test_scores_agree_with_scikit_learn():
    scores = ClassificationMetric(["a", "b", "c"]).compute(predictions=PREDICTIONS, references=LABELS)
    report = reference.classification_report(
        LABELS, PREDICTIONS, target_names=["a", "b", "c"], output_dict=True, zero_division=0
    )
    assert scores["accuracy"] == report["accuracy"]
    for average in ("macro", "weighted"):
        assert scores[f"f1_{average}"] == pytest.approx(report[f"{average} avg"]["f1-score"])
    for name in "abc":
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert scores[f"{ours}_{name}"] == pytest.approx(report[name][theirs])


def test_confusion_counts_have_the_truth_in_rows():
    scores = ClassificationMetric(["a", "b", "c"]).compute(predictions=PREDICTIONS, references=LABELS)
    assert scores["confusion_matrix"] == [[2, 2, 0], [1, 1, 0], [0, 1, 0]]
    assert scores["recall_a"] == 2 / 4  # of the 4 that are a
    assert scores["precision_a"] == 2 / 3  # of the 3 called a


def test_a_class_called_macro_does_not_change_the_average():
    scores = ClassificationMetric(["macro", "weighted"]).compute(predictions=[0, 0, 0], references=[0, 0, 1])
    assert scores["f1_macro"] == pytest.approx(0.4)
    assert scores["f1_weighted"] == pytest.approx(0.8 * 2 / 3)


def test_compute_metrics_reads_labels_beside_the_ids():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    labels = np.array([0, 1, 1])
    scores = make_compute_metrics(CONFIG)(EvalPrediction(logits, (labels, np.array([7, 5, 6]))))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert all(isinstance(value, float) for value in scores.values())
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scores["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities), rel=1e-6)


def test_log_loss_of_extreme_logits_is_finite():
    assert log_loss(np.array([[1e4, -1e4]]), np.array([1])) == 2e4


def test_a_metric_that_no_evaluation_gives_is_refused():
    for name in ("accuracy", "eval_f1_macro", "log_loss"):
        chosen = SimpleNamespace(metric_for_best_model=name, label_smoothing_factor=0)
        scores = make_compute_metrics(CONFIG, chosen)(EvalPrediction(np.eye(2), (np.arange(2), np.arange(2))))
        assert name.removeprefix("eval_") in scores
    make_compute_metrics(CONFIG, SimpleNamespace(metric_for_best_model="loss", label_smoothing_factor=0))  # Trainer's
    with pytest.raises(
        ValueError,
        match="Found --metric_for_best_model f1; expected one of loss, log_loss, calibrated_loss, accuracy",
    ):
        make_compute_metrics(CONFIG, SimpleNamespace(metric_for_best_model="f1", label_smoothing_factor=0))


def test_wilson_interval():
    assert wilson_interval(0, 10)[0] == pytest.approx(0)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    low, high = wilson_interval(750, 872)  # against statsmodels' proportion_confint(method="wilson")
    assert (round(low, 4), round(high, 4)) == (0.8355, 0.8815)
