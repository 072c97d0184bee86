"""`finish_run` is tested by every recipe; here is what `calibrate` leaves in a model."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, List
from transformers import AutoTokenizer

from bertcls import BertClsForSequenceClassification, TextClassifier
from bertcls.data.labels import label_array
from bertcls.metrics import fit_temperature, tune_thresholds
from bertcls.training.finish import calibrate

TEXTS = ["a good film", "never again", "dull", "good and never dull"] * 3


def make_classifier(encoder_folder: str, problem_type: str, labels: int) -> TextClassifier:
    torch.manual_seed(0)
    names = {number: f"label {number}" for number in range(labels)}
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, id2label=names, problem_type=problem_type)
    with torch.no_grad():
        model.classifier.weight.mul_(50)  # too sure of itself
    return TextClassifier(model.eval(), AutoTokenizer.from_pretrained(encoder_folder))


def test_one_label_gets_a_temperature(encoder_folder):
    classifier = make_classifier(encoder_folder, "single_label_classification", 2)
    rows = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 6})
    logits = classifier.logits(TEXTS)
    calibrate(classifier, rows)
    assert classifier.model.config.temperature == fit_temperature(logits, label_array(rows)) != 1
    assert classifier.model.config.thresholds is None


def test_the_thresholds_of_several_labels_are_those_of_calibrated_probabilities(encoder_folder):
    classifier = make_classifier(encoder_folder, "multi_label_classification", 3)
    labels = List(ClassLabel(names=["label 0", "label 1", "label 2"]))
    rows = Dataset.from_dict({"text": TEXTS, "label": [[0], [1, 2], [], [0, 2]] * 3}).cast_column("label", labels)
    calibrate(classifier, rows)
    config, labels = classifier.model.config, label_array(rows)
    assert config.temperature == fit_temperature(classifier.logits(TEXTS), labels) != 1
    assert config.thresholds == tune_thresholds(classifier.to_probabilities(classifier.logits(TEXTS)), labels)
    probabilities = 1 / (1 + np.exp(-classifier.logits(TEXTS)))
    assert config.thresholds != tune_thresholds(probabilities, labels)


def test_nothing_is_fitted_of_a_regression(encoder_folder):
    classifier = make_classifier(encoder_folder, "regression", 1)
    calibrate(classifier, Dataset.from_dict({"text": TEXTS, "label": [0.5, 2.5] * 6}))
    assert classifier.model.config.temperature == 1
