import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset
from sklearn.metrics import matthews_corrcoef

from bertcls.report.scores import describe_scores, score_reported


class FixedAnswers:
    thresholds = None

    def probabilities(self, texts, *, progress=False):
        assert texts == ["x", "y", "z"]
        return np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]])

    def to_probabilities(self, logits):
        return logits

    def logits_with_windows(self, texts, *, progress=False):
        windows = [[[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]], [[0.9, 0.1], [0.4, 0.6]], [[0.9, 0.1]]]
        return self.probabilities(texts), [np.array(rows) for rows in windows]


def test_the_file_and_the_scores_say_the_same(tmp_path):
    rows = Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, 0], "example_id": [4, 9, 2]})
    rows = rows.cast_column("label", ClassLabel(names=["bad", "good"]))
    results = score_reported(FixedAnswers(), rows, run_dir=str(tmp_path))
    table = pd.read_parquet(tmp_path / "report" / "predictions.parquet")
    assert table.to_dict("list") == {
        "example_id": [4, 9, 2],
        "text": ["x", "y", "z"],
        "label": ["good", "bad", "bad"],
        "prediction": ["good", "good", "bad"],
        "probability_bad": [0.2, 0.4, 0.9],
        "probability_good": [0.8, 0.6, 0.1],
    }
    assert results["test_accuracy"] == 2 / 3 and results["test_samples"] == 3
    assert results["test_confusion_matrix"] == [[1, 1], [0, 1]]
    assert results["test_accuracy_low"] < 2 / 3 < results["test_accuracy_high"]
    text = describe_scores(results | {"reported_split": "validation"})
    assert text.startswith("validation accuracy 0.67 (95 % interval 0.21 to 0.94, 3 rows), F1 macro 0.67")
    assert results["test_per_class"]["good"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}


def test_own_metrics_are_told_and_take_no_score_from_ours(tmp_path):
    rows = Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, 0], "example_id": [4, 9, 2]})
    rows = rows.cast_column("label", ClassLabel(names=["macro", "accuracy"]))
    own = {"mcc": matthews_corrcoef, "accuracy": lambda labels, predictions: 1.0}
    results = score_reported(FixedAnswers(), rows, run_dir=str(tmp_path), own=own)
    assert results["test_accuracy"] == 2 / 3 and results["test_mcc"] == 0.5
    assert describe_scores(results | {"reported_split": "test"}).endswith(", mcc 0.50")


def test_scores_of_windows_by_hand(tmp_path):
    rows = Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, 0], "example_id": [4, 9, 2]})
    rows = rows.cast_column("label", ClassLabel(names=["bad", "good"]))
    results = score_reported(FixedAnswers(), rows, run_dir=str(tmp_path))
    assert results["test_accuracy"] == 2 / 3
    assert results["test_window_accuracy"] == 3 / 6  # of six windows good, bad, bad; bad, good; bad
    assert results["test_vote_accuracy"] == 2 / 3  # two bad windows outvote the good one; a tie goes by 1.3 to 0.7
