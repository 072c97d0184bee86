from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as reference
from transformers import EvalPrediction

from bertcls import BertClsConfig, make_compute_metrics
from bertcls.metrics import fit_temperature, log_loss, tune_thresholds
from bertcls.modeling import MULTI_LABEL, SINGLE_LABEL
from bertcls.report.statistics import wilson_interval
from bertcls.scorers import TaskMetric

CONFIG = BertClsConfig(id2label={0: "a", 1: "b"}, problem_type="single_label_classification")
LABELS = [0, 0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 0, 1]


def test_scores_agree_with_scikit_learn():
    scores = TaskMetric(SINGLE_LABEL, ["a", "b", "c"]).compute(predictions=PREDICTIONS, references=LABELS)
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
            assert scores["per_class"][name][ours] == pytest.approx(report[name][theirs])


def test_a_class_that_neither_occurs_nor_is_answered_is_no_part_of_an_average():
    scores = TaskMetric(SINGLE_LABEL, ["a", "b", "c"]).compute(predictions=[0, 1, 1], references=[0, 0, 1])
    assert scores["f1_macro"] == reference.f1_score([0, 0, 1], [0, 1, 1], average="macro")
    assert scores["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_confusion_counts_have_the_truth_in_rows():
    scores = TaskMetric(SINGLE_LABEL, ["a", "b", "c"]).compute(predictions=PREDICTIONS, references=LABELS)
    assert scores["confusion_matrix"] == [[2, 2, 0], [1, 1, 0], [0, 1, 0]]
    assert scores["per_class"]["a"]["recall"] == 2 / 4  # of the 4 that are a
    assert scores["per_class"]["a"]["precision"] == 2 / 3  # of the 3 called a


NAMES = ["macro", "weighted", "micro", "accuracy", "loss", "samples", "per_class", "confusion_matrix", "mcc"]


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL])
def test_no_name_of_a_class_changes_an_average(kind):
    draw = np.random.default_rng(0)
    shape = (200,) if kind == SINGLE_LABEL else (200, len(NAMES))
    labels, predictions = draw.integers(0, len(NAMES) if len(shape) == 1 else 2, (2, *shape)).tolist()
    found, plain = (
        TaskMetric(kind, names).compute(predictions=predictions, references=labels)
        for names in (NAMES, [f"class {number}" for number in range(len(NAMES))])
    )
    assert list(found["per_class"]) == NAMES and list(found) == list(plain)
    assert [*found.pop("per_class").values()] == [*plain.pop("per_class").values()] and found == plain


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "f1_macro", "loss", "samples", "per_class"])
def test_a_metric_of_ones_own_takes_no_name_of_another_score(name):
    with pytest.raises(
        ValueError, match=f"Found a metric of one's own called {name}; expected a name that no score has"
    ):
        make_compute_metrics(CONFIG, own={name: reference.accuracy_score})


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


def calibrated(random, rows: int, *, spread: float, over: float, base: float = 0.0, classes: int = 2):
    """Logits that are `over` times too sure, and labels drawn by what the logits should be."""
    true = random.normal(size=(rows, classes)) * spread
    true[:, 1] += base
    labels = (true - np.log(-np.log(random.random(true.shape)))).argmax(1)
    return true * over, labels


@pytest.mark.parametrize("over", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("rows, classes", [(20, 2), (50, 4), (200, 2)])
def test_a_temperature_of_few_rows_does_no_harm_to_new_rows(rows, classes, over):
    random, how = np.random.default_rng(rows), {"spread": 2.0, "over": over, "classes": classes}
    logits, labels = calibrated(random, 20_000, **how)
    plain = log_loss(logits, labels)
    fitted = [log_loss(logits / fit_temperature(*calibrated(random, rows, **how)), labels) for _ in range(40)]
    assert np.mean(fitted) < plain + (0.02 if over == 1.0 else 0)


@pytest.mark.parametrize("base", [-6.0, -4.0, -2.0, 0.0])
@pytest.mark.parametrize("rows", [30, 120, 500])
def test_thresholds_of_few_texts_do_no_harm_to_new_texts(rows, base):
    random = np.random.default_rng(rows)

    def draw(rows: int):
        logits, labels = calibrated(random, rows, spread=2.0, over=1.0, base=base)
        return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), labels

    def f1(threshold: float) -> float:
        given = probabilities >= threshold
        return 2 * (given & (labels == 1)).sum() / (given.sum() + labels.sum())

    probabilities, labels = draw(50_000)
    tuned = []
    for _ in range(40):
        column, truth = draw(rows)
        tuned.append(f1(tune_thresholds(column[:, None], truth[:, None])[0]))
    assert np.mean(tuned) > f1(0.5) - 0.008
