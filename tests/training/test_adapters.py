"""Adapters: on every family, merged without a trace, in every part of a run, and gone on with."""

import functools
import inspect
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, load_recipe
from helpers import ENCODERS, SMALL, build, run_recipe_main
from safetensors.torch import load_file
from torch import nn
from transformers import AlbertConfig, AutoConfig, ElectraConfig, TrainerCallback

from bertcls import RecipeArguments
from bertcls.optim import check_rates, freeze, layerwise_parameter_groups
from bertcls.training.adapters import add_adapters, merge_adapters
from bertcls.training.launch import parse
from bertcls.training.options import ADAPTERS_RATE

FAMILIES = ENCODERS | {
    "albert": AlbertConfig(**SMALL, embedding_size=16),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "mpnet": AutoConfig.for_model("mpnet", **SMALL),
    "fnet": AutoConfig.for_model("fnet", **{k: v for k, v in SMALL.items() if k != "num_attention_heads"}),
    "xlm": AutoConfig.for_model("xlm", n_words=60, emb_dim=32, n_layers=2, n_heads=2),
}
TEXT = {"input_ids": torch.arange(5, 29).view(3, 8), "labels": torch.tensor([0, 2, 1])}
QUICK = "--max_train_samples 56 --per_device_train_batch_size 16 --num_train_epochs 3 --lora_rank 4".split()
QUICK = ["--from_scratch", "false", *QUICK]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TEXT["input_ids"]).logits


def adapted(family="bert", *, rank=4, **freezing) -> nn.Module:
    """With adapters that are no longer zero."""
    model = build(encoder=FAMILIES[family], pooling="mean")
    freeze(model, **freezing)
    add_adapters(model.encoder, rank)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_adapters_alone_and_merges_them_without_a_trace(family):
    plain, model = (build(encoder=FAMILIES[family], pooling="mean") for _ in range(2))
    matrices = {name for name, part in model.encoder.named_modules() if isinstance(part, nn.Linear)}
    assert add_adapters(model.encoder, 4) == len(matrices) >= 2
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-6)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    of_adapters = {f"encoder.{name}.lora_{side}.default.weight" for name in matrices for side in "AB"}
    assert trained == of_adapters | {"classifier.weight", "classifier.bias"}
    model.train()(**TEXT).loss.backward()
    parameters = dict(model.named_parameters())
    still = {name for name in of_adapters if "lora_B" in name and not parameters[name].grad.abs().sum() > 0}
    assert not still  # an adapter that the encoder passes by would never learn

    moved = adapted(family)
    before = logits(moved)
    assert (before - logits(plain)).abs().max() > 1e-2
    merge_adapters(moved)
    torch.testing.assert_close(logits(moved).softmax(-1), before.softmax(-1), rtol=0, atol=1e-5)
    assert [*moved.state_dict()] == [*plain.state_dict()]
    assert [(name, type(part)) for name, part in moved.named_modules()] == [
        (name, type(part)) for name, part in plain.named_modules()
    ]
    assert not any(hasattr(part, "peft_config") for part in moved.modules())


def test_a_matrix_without_a_use_for_an_adapter_is_refused():
    for rank, freezing, message in (
        (33, {}, "Found --lora_rank 33; expected 1 to 32, the least width"),
        (4, {"freeze_layers": 2}, "Found --lora_rank 4, but no linear matrix of the BertModel that trains"),
    ):
        with pytest.raises(ValueError, match=message):
            adapted(rank=rank, **freezing)
    with pytest.raises(ValueError, match="expected 1 to 16"):
        adapted("albert", rank=17)


def test_layers_are_frozen_and_slowed_with_adapters_as_without():
    model = adapted(freeze_layers=1)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 6 + 2 and not any(".layer.0." in name for name in names)
    model = adapted()
    groups = layerwise_parameter_groups(model, learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        depth = 2 if ".layer.0." in name else 1 if ".layer.1." in name else 0
        assert rates.get(id(parameter)) == (1e-3 * 0.5**depth if parameter.requires_grad else None), name
    table = check_rates(model, torch.optim.AdamW(groups)).splitlines()[1:]
    assert [line.split()[:2] for line in table] == [["0", "head"], ["0", "head"], ["1", "layer"], ["2", "layer"]]


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_activations_give_adapters_the_same_gradients(reentrant):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = adapted().train()
        if again:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        model(**TEXT).loss.backward()
        found.append({name: part.grad for name, part in model.named_parameters() if "lora" in name})
    assert len(found[0]) == 24
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_bad_settings_are_refused_before_anything_is_read(sst2_recipe, tmp_path, monkeypatch):
    def refusal(*words) -> str:
        with pytest.raises(ValueError) as caught:
            parse(RecipeArguments, ["--output_dir", str(tmp_path / "run"), *words], defaults=sst2_recipe.DEFAULTS)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    for rank in ("0", "-2"):
        assert refusal("--lora_rank", rank).startswith(f"Found --lora_rank {rank}; expected 1 or more")
    assert "expected one of them" in refusal("--lora_rank", "8", "--freeze_encoder")
    assert "expected one of them, since adapters need one that has learnt" in refusal(
        "--lora_rank", "8", "--from_scratch"
    )
    assert "such as --lora_rank" in refusal("--lora", "8")
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        assert "Found --lora_rank under FSDP or DeepSpeed; expected whole weights" in refusal("--lora_rank", "8")
    with monkeypatch.context() as patch:
        patch.setattr("bertcls.training.adapters.is_peft_available", lambda: False)
        assert refusal("--lora_rank", "8").endswith("Install it: pip install peft")


def test_adapters_have_a_learning_rate_of_their_own(sst2_recipe, tmp_path, capsys):
    def rate(*words) -> float:
        words = ["--output_dir", str(tmp_path), *words]
        return parse(RecipeArguments, words, defaults=sst2_recipe.DEFAULTS, sample=sst2_recipe.SAMPLE)[1].learning_rate

    assert rate() == sst2_recipe.DEFAULTS["learning_rate"] and "dapters" not in capsys.readouterr().out
    assert rate("--lora_rank", "8") == rate("--lora_rank", "8", "--sample") == ADAPTERS_RATE
    assert f"Adapters: the learning rate is {ADAPTERS_RATE:g}" in capsys.readouterr().out
    assert rate("--lora_rank", "8", "--learning_rate", "3e-5") == 3e-5 and "dapters" not in capsys.readouterr().out
    for own, found in (({"learning_rate": 5e-4}, 5e-4), ({}, ADAPTERS_RATE)):  # DEFAULTS of a copy
        defaults = {name: value for name, value in sst2_recipe.DEFAULTS.items() if name != "learning_rate"}
        words = ["--output_dir", str(tmp_path / f"own-{found}")]
        _, training_args = parse(RecipeArguments, words, defaults=defaults | {"lora_rank": 8} | own)
        assert training_args.learning_rate == found


# ------------------------------------------------------------------------------------------------ whole runs


def test_every_recipe_gives_the_rank_to_what_adds_adapters_and_to_what_merges_them():
    sources = {path.stem: path.read_text() for path in sorted((ROOT / "recipes").glob("*.py"))}
    trains = [name for name, source in sources.items() if "\nDEFAULTS = " in source and "Trainer(" in source]
    assert len(trains) >= 9
    for name in {*trains} - {"encoder_distill"}:  # all of whose encoder is new
        recipe = load_recipe(name)
        helpers = {getattr(recipe, helper) for helper in re.findall(r"\*\*args\.of\((\w+)\)", sources[name])}
        takes = {helper.__name__ for helper in helpers if "lora_rank" in inspect.signature(helper).parameters}
        assert takes - {"training_callbacks"} and "training_callbacks(training_args" in sources[name], name


WITHOUT_PEFT = """
import json, sys
sys.modules["peft"] = None  # as if it were not installed
from bertcls import TextClassifier
answers = TextClassifier.from_pretrained(sys.argv[1]).predict(json.loads(sys.argv[2]))
print("found:", json.dumps([[found for _, found in sorted(answer.probabilities.items())] for answer in answers]))
"""


class Stop(TrainerCallback):
    """Kills the run before an epoch, as Ctrl+C does."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture
def the_signal_as_it_was():
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.mark.slow
@pytest.mark.usefixtures("the_signal_as_it_was")
def test_a_run_keeps_its_contract_goes_on_and_loads_without_peft(sst2_recipe, tmp_path, monkeypatch):
    results = run_recipe_main(sst2_recipe, tmp_path / "whole", *QUICK)
    checkpoint = max((tmp_path / "whole" / "checkpoints").glob("checkpoint-*"))
    saved = load_file(checkpoint / "model.safetensors")
    assert sum("lora_A" in name for name in saved) >= 12  # it goes on from there
    assert (checkpoint / "optimizer.pt").stat().st_size < (checkpoint / "model.safetensors").stat().st_size
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in weights)

    kept = sst2_recipe.training_callbacks
    with monkeypatch.context() as patch:
        more = functools.wraps(kept)(lambda *args, **kwargs: [*kept(*args, **kwargs), Stop()])
        patch.setattr(sst2_recipe, "training_callbacks", more)
        with pytest.raises(KeyboardInterrupt):
            run_recipe_main(sst2_recipe, tmp_path / "killed", *QUICK)
    again = run_recipe_main(sst2_recipe, tmp_path / "killed", *QUICK, "--resume_from_checkpoint")
    for name, tensor in load_file(tmp_path / "killed" / "model.safetensors").items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0, msg=name)
    assert again["test_accuracy"] == results["test_accuracy"] and again["eval_loss"] == results["eval_loss"]
    with pytest.raises(ValueError, match="lora_rank|trainable parameters"):
        run_recipe_main(sst2_recipe, tmp_path / "killed", *QUICK[:-1], "3", "--resume_from_checkpoint")

    rows = pd.read_parquet(tmp_path / "whole" / "report" / "predictions.parquet")[:20]
    command = [sys.executable, "-c", WITHOUT_PEFT, str(tmp_path / "whole"), json.dumps(rows["text"].tolist())]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    found = json.loads(said.rpartition("found: ")[2])
    names = sorted(name for name in rows.columns if name.startswith("probability"))
    np.testing.assert_allclose(found, rows[names].to_numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_further_pretraining_trains_adapters_and_saves_an_encoder(encoder_folder, tmp_path):
    recipe = load_recipe("imdb_mlm_pretrain")
    words = f"--sample --model_name_or_path {encoder_folder} --lora_rank 4 --head_warmup_steps 2 --num_train_epochs 1"
    words += f" --output_dir {tmp_path / 'run'} --max_train_samples 100 --per_device_train_batch_size 4"
    args, training_args = parse(recipe.Arguments, words.split(), defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    recipe.main(args, training_args)
    before, after = load_file(f"{encoder_folder}/model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in after)
    found = {name for name, tensor in before.items() if not torch.equal(tensor, after[f"bert.{name}"])}
    assert len(found) == 12 and all(name.endswith(".weight") for name in found)  # the head's warm-up freed no others
