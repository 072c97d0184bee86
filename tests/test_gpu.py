"""What only a GPU shows. `pytest -m gpu` runs it, and so does benchmarks/gpu.py."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_recipe
from helpers import run_recipe_main, save_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from bertcls import TextClassifier, export_onnx
from bertcls.training.options import parse_options

pytestmark = pytest.mark.gpu
WORDS = "--max_train_samples 96 --per_device_train_batch_size 32 --num_train_epochs 3 --head_init random".split()
# plain SGD: Adam makes a full step of any rounding of a gradient that is nearly zero
RESUMED = [*WORDS, *"--optim sgd --learning_rate 0.1 --bf16 false --early_stopping_patience 5".split()]


@pytest.fixture(scope="module")
def in_fp32(sst2_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp32") / "run"
    return folder, run_recipe_main(sst2_recipe, folder, *WORDS, "--bf16", "false")


def with_callback(monkeypatch, recipe, callback: TrainerCallback) -> None:
    kept = recipe.training_callbacks
    more = functools.wraps(kept)(lambda *args, **kwargs: [*kept(*args, **kwargs), callback])
    monkeypatch.setattr(recipe, "training_callbacks", more)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_train_as_32_do(precision, sst2_recipe, in_fp32, tmp_path):
    results = run_recipe_main(sst2_recipe, tmp_path / "run", *WORDS, f"--{precision}", "true")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["precision"] == precision
    if torch.cuda.is_available():
        assert record["device"] == torch.cuda.get_device_name() and record["peak_memory_gib"]["accelerator"] > 0
    for name in ("train_loss", "eval_log_loss"):
        assert results[name] == pytest.approx(in_fp32[1][name], abs=0.02), name
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_what_was_reported_is_what_the_saved_model_says_on_a_cpu(sst2_recipe, in_fp32):
    folder, _ = in_fp32
    reported = pd.read_parquet(folder / "report" / "predictions.parquet")
    classifier = TextClassifier.from_pretrained(str(folder), device="cpu")
    found = classifier.probabilities(reported["text"].tolist())
    expected = reported[[f"probability_{name}" for name in classifier.label_names]].to_numpy()
    assert len(found) > 100 and np.abs(found - expected).max() < 1e-4


def test_a_resumed_run_ends_as_the_undisturbed_one(sst2_recipe, tmp_path, monkeypatch):
    class Stop(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.epoch == 1:
                raise KeyboardInterrupt

    whole = run_recipe_main(sst2_recipe, tmp_path / "whole", *RESUMED)
    other = run_recipe_main(sst2_recipe, tmp_path / "other", *RESUMED, "--seed", "7")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        with_callback(patch, sst2_recipe, Stop())
        run_recipe_main(sst2_recipe, tmp_path / "resumed", *RESUMED)
    results = run_recipe_main(sst2_recipe, tmp_path / "resumed", *RESUMED, "--resume_from_checkpoint")
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in ("whole", "other", "resumed")}
    gaps = {
        name: max(float((weights[name][key] - tensor).abs().max()) for key, tensor in weights["whole"].items())
        for name in ("other", "resumed")
    }
    assert gaps["resumed"] < 1e-4 < gaps["other"]  # dropout goes on with the draws that it would have had
    assert results["eval_log_loss"] == pytest.approx(whole["eval_log_loss"], abs=1e-4) != other["eval_log_loss"]


def test_tf32_is_put_back_after_a_run(sst2_recipe, tmp_path, monkeypatch):
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            products.append(matrix @ matrix)

    matrix, products = torch.randn(512, 512, device=torch.accelerator.current_accelerator()), []
    exact = matrix.double() @ matrix.double()
    before = matrix @ matrix
    with_callback(monkeypatch, sst2_recipe, Look())
    run_recipe_main(sst2_recipe, tmp_path / "run", *WORDS, "--tf32", "true", "--bf16", "false")
    assert torch.backends.fp32_precision == "none" and torch.equal(matrix @ matrix, before)
    error = [float((product.double() - exact).abs().max()) for product in (before, *products)]
    assert len(error) == 1 + 9 and min(error[1:]) > 10 * error[0]


def test_onnx_on_the_cpu_answers_as_the_accelerator_does(encoder_folder, tmp_path):
    pytest.importorskip("onnxscript")
    run = save_model(encoder_folder, tmp_path / "run")
    export_onnx(run, str(tmp_path / "onnx"))
    texts = ["good film", "never dull " * 40, ""]
    here = TextClassifier.from_pretrained(run)
    assert here.device.type != "cpu"
    exported = TextClassifier.from_pretrained(str(tmp_path / "onnx"), "onnx")
    assert np.abs(here.probabilities(texts) - exported.probabilities(texts)).max() < 1e-4


def test_bulk_labels_are_those_of_a_cpu(encoder_folder, tmp_path):
    run, recipe = save_model(encoder_folder, tmp_path / "run"), load_recipe("predict")
    texts = [f"good film, {'never dull ' * (row % 50)}{row}" for row in range(300)]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "mine.csv", index=False)
    words = f"--model_name_or_path {run} --dataset_name {tmp_path}/mine.csv --output_file {tmp_path}/labels.parquet"
    recipe.main(parse_options(recipe.Arguments, words.split(), description=""))
    found = pd.read_parquet(tmp_path / "labels.parquet")
    expected = TextClassifier.from_pretrained(run, device="cpu").probabilities(texts)
    assert np.abs(found[["probability_bad", "probability_good"]].to_numpy() - expected).max() < 1e-4


def test_a_million_characters_take_little_more_memory_than_a_tenth_of_them(encoder_folder, tmp_path):
    classifier = TextClassifier.from_pretrained(save_model(encoder_folder, tmp_path / "run"))
    peaks = []
    for characters in (100_000, 1_000_000):
        torch.accelerator.reset_peak_memory_stats()
        assert len(classifier.predict("good film " * (characters // 10))) == 1
        peaks.append(torch.accelerator.max_memory_allocated())
    assert peaks[1] - peaks[0] < 300 * 2**20  # some windows at a time, and the tokens of all
