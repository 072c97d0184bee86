import json
import subprocess
import sys

import pytest
from conftest import ROOT

import bertcls


def test_every_public_name_can_be_imported():
    assert len(bertcls.__all__) > 20
    for name in bertcls.__all__:
        assert getattr(bertcls, name).__name__ == name
    assert set(bertcls.__all__) <= set(dir(bertcls))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(bertcls, "no_such_name")


HEAVY = "datasets pandas sklearn matplotlib evaluate iterstrat starlette uvicorn onnx onnxruntime transformers.trainer"
STARTED = """
import contextlib, io, json, runpy, sys
import bertcls
heavy, loaded = sys.argv[1].split(), []
loaded.append([name for name in heavy if name in sys.modules])
from transformers import AutoConfig, AutoModelForSequenceClassification
config = AutoConfig.for_model("bertcls")
kinds = [type(config).__name__, AutoModelForSequenceClassification._model_mapping[type(config)].__name__]
for recipe in ("predict", "csv_finetune"):
    sys.argv = [recipe, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_path(f"recipes/{recipe}.py", run_name="__main__")
    assert "--model_name_or_path" in said.getvalue()
    loaded.append([name for name in heavy if name in sys.modules])
print(json.dumps([kinds, *loaded]))
"""


@pytest.mark.slow
def test_what_is_imported_is_needed_and_the_model_type_is_registered():
    command = [sys.executable, "-W", "error", "-c", STARTED, HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    kinds, package, predict, training = json.loads(done.stdout)
    assert kinds == ["BertClsConfig", "BertClsForSequenceClassification"]
    assert package == predict == []  # one text is labelled without data sets and without Trainer
    assert training == ["datasets", "pandas", "transformers.trainer"]  # which Trainer itself imports
