"""A model folder that an earlier version saved loads, answers the same, exports and serves."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from bertcls import BertClsForSequenceClassification, TextClassifier, export_onnx
from bertcls.export.stock import export_stock

FOLDER = ROOT / "tests" / "data_files" / "saved_before"
SAVED = json.loads((FOLDER / "expected.json").read_text())
TEXTS, EXPECTED = SAVED["texts"], np.array(SAVED["probabilities"])

REMOTE = """
import json, sys
sys.modules["bertcls"] = None  # not importable
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)
print(json.dumps(model(**tokenizer(sys.argv[2], return_tensors="pt")).logits.softmax(-1).tolist()[0]))
"""


@pytest.fixture
def folder(tmp_path) -> str:
    return str(shutil.copytree(FOLDER, tmp_path / "run"))


def test_it_answers_as_it_did():
    classifier = TextClassifier.from_pretrained(str(FOLDER), device="cpu")
    temperature = classifier.model.config.temperature
    assert classifier.label_names == ["negative", "positive"] and temperature != 1.0
    np.testing.assert_allclose(classifier.probabilities(TEXTS), EXPECTED, rtol=0, atol=1e-5)
    answers = classifier.predict_encoded(classifier.encode(TEXTS, windows=True))  # as the service does
    assert [list(answer.probabilities.values()) for answer in answers] == [
        pytest.approx(row, abs=1e-5) for row in EXPECTED
    ]
    assert [len(answer.windows) for answer in answers] == [1, 1, 1, 7, 1]


def test_it_starts_another_model_and_can_be_saved_anew(folder, tmp_path):
    BertClsForSequenceClassification.from_encoder(folder, num_labels=3)
    TextClassifier.from_pretrained(folder, device="cpu").save_pretrained(str(tmp_path / "anew"))
    again = TextClassifier.from_pretrained(str(tmp_path / "anew"), device="cpu")
    np.testing.assert_allclose(again.probabilities(TEXTS), EXPECTED, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_it_exports(folder, tmp_path):
    export_onnx(folder, str(tmp_path / "onnx"))
    exported = TextClassifier.from_pretrained(str(tmp_path / "onnx"), "onnx")
    np.testing.assert_allclose(exported.probabilities(TEXTS), EXPECTED, rtol=0, atol=1e-5)
    assert export_stock(folder, str(tmp_path / "stock"), TEXTS)["reason"].startswith("Its pooling is 'mean'")


@pytest.mark.slow
def test_its_own_code_loads_where_bertcls_is_not_installed(tmp_path):
    command = [sys.executable, "-c", REMOTE, str(FOLDER), TEXTS[0]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logits = np.log(json.loads(done.stdout.splitlines()[-1]))
    classifier = TextClassifier.from_pretrained(str(FOLDER), device="cpu")
    np.testing.assert_allclose(classifier.to_probabilities(logits), EXPECTED[0], rtol=0, atol=1e-5)
