"""The configurations for `accelerate launch`: several processes must not change what a recipe finds."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from conftest import ROOT, TINY
from helpers import FILES, run_recipe_main
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

CONFIGS = ROOT / "recipes" / "accelerate_configs"
PLAIN = {"multi_gpu": True, "use_fsdp": False, "use_deepspeed": False, "num_machines": 1}
EXPECTED = {
    "cpu_2proc": PLAIN | {"num_processes": 2},
    "multi_gpu": PLAIN | {"num_processes": 4},
    "multi_node": PLAIN | {"num_processes": 8, "num_machines": 2, "main_process_port": 29500},
    "multi_node_elastic": PLAIN | {"num_processes": 8, "num_machines": 2, "same_network": False},
    "fsdp": PLAIN | {"num_processes": 4, "multi_gpu": False, "use_fsdp": True},
    "deepspeed_zero2": PLAIN | {"num_processes": 4, "multi_gpu": False, "use_deepspeed": True},
}


def read_config(name: str):
    """What `accelerate launch --config_file` makes of a file, and what it reads from it."""
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), "recipes/sst2_finetune.py", "--sample"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return args, defaults


def test_every_configuration_is_read_by_accelerate():
    assert {path.stem for path in CONFIGS.iterdir()} == set(EXPECTED)
    for name, expected in EXPECTED.items():
        args, _ = read_config(name)
        assert {key: getattr(args, key) for key in expected} == expected, name
        assert args.mixed_precision == "no", name  # so that the recipe chooses


def test_the_sharding_configurations_reach_their_plugins():
    environment = prepare_multi_gpu_env(read_config("fsdp")[0])
    with patch_environment(**{name: value for name, value in environment.items() if "FSDP" in name}):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer"]
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"

    args, defaults = read_config("deepspeed_zero2")
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    environment = prepare_deepspeed_cmd_env(args)[1]
    with patch_environment(**{name: value for name, value in environment.items() if name.startswith("ACCELERATE_")}):
        plugin = DeepSpeedPlugin()
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert plugin.deepspeed_config["zero_optimization"]["offload_optimizer"]["device"] == "none"
    for name in ("gradient_accumulation_steps", "gradient_clipping"):
        assert plugin.deepspeed_config[name] == "auto"  # Trainer fills them in


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Options of a run in which nothing is drawn, so that it is the same however its batches are cut."""
    folder = tmp_path_factory.mktemp("undrawn")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    words = f"--model_name_or_path {folder} --from_scratch false --classifier_dropout 0 --bf16 false --optim sgd"
    words += " --learning_rate 0.1 --train_sampling_strategy sequential --max_train_samples 96 --num_train_epochs 3"
    words += " --head_init random --pooling mean --max_length 64 --early_stopping_patience 5"
    return words.split()


@pytest.fixture(scope="module")
def one_process(sst2_recipe, words, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, run_recipe_main(sst2_recipe, folder, *words, "--per_device_train_batch_size", "32")


def launch(place: Path, name: str, *words: str, batch: int = 16) -> tuple[Path, str]:
    """The folder that the processes chose for their run, and what they said."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["accelerate", "launch", "--config_file", str(CONFIGS / f"{name}.yaml"), *words]
    command += ["--per_device_train_batch_size", str(batch), "--figures", "false"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen(command, text=True, cwd=place, env=environment, **options)
    try:
        said, errors = process.communicate(timeout=570)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # where it hangs: the launcher's children, too
    assert process.returncode == 0, errors[-3000:]
    (folder,) = (place / "runs").iterdir()  # one for both
    return folder, said


def check_same_run(folder: Path, one_process: tuple[Path, dict], processes: int = 2) -> None:
    whole, results = one_process
    assert {path.name for path in folder.iterdir()} == FILES
    record = json.loads((folder / "run.json").read_text())
    assert record["processes"] == processes
    found = json.loads((folder / "report" / "metrics.json").read_text())["scores"]
    assert abs(results["before_log_loss"] - results["eval_log_loss"]) > 1e-3  # else equal scores say nothing
    for name in ("before_log_loss", "eval_log_loss", "eval_accuracy", "test_accuracy", "test_f1_macro"):
        assert found[name] == pytest.approx(results[name], abs=1e-4), name
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, whole))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=0, msg=name)
    ours, theirs = (pd.read_parquet(path / "report" / "predictions.parquet") for path in (folder, whole))
    assert ours["example_id"].tolist() == theirs["example_id"].tolist()
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder, whole))
    assert ours["auto_map"] == theirs["auto_map"]
    assert ours["temperature"] == pytest.approx(theirs["temperature"], abs=1e-3)


@pytest.mark.slow
def test_two_processes_run_the_recipe_as_one_does(words, one_process, tmp_path):
    folder, said = launch(tmp_path, "cpu_2proc", str(ROOT / "recipes" / "sst2_finetune.py"), "--sample", *words)
    check_same_run(folder, one_process)
    assert said.count("test accuracy") == 1  # rank 0 alone speaks
    assert len(list((folder / "checkpoints" / "checkpoint-9").glob("rng_state_*.pth"))) == 2


@pytest.mark.slow
def test_two_processes_train_adapters_as_one_does(sst2_recipe, words, tmp_path):
    words = [*words, "--lora_rank", "4", "--learning_rate", "0.1"]
    whole = tmp_path / "one"
    results = run_recipe_main(sst2_recipe, whole, *words, "--per_device_train_batch_size", "32")
    folder, _ = launch(tmp_path, "cpu_2proc", str(ROOT / "recipes" / "sst2_finetune.py"), "--sample", *words)
    check_same_run(folder, (whole, results))


@pytest.mark.slow
def test_fsdp_runs_the_recipe_as_one_process_does(words, one_process, tmp_path):
    script = [str(ROOT / "tests" / "fsdp_on_cpu.py"), str(ROOT / "recipes" / "sst2_finetune.py")]
    folder, _ = launch(tmp_path, "fsdp", "--num_processes", "2", *script, "--sample", *words)
    check_same_run(folder, one_process)
    assert list((folder / "checkpoints").glob("*/pytorch_model_fsdp.bin"))  # it was FSDP


@pytest.mark.gpu
def test_fsdp_on_one_gpu_runs_the_recipe_as_it_does_without(words, one_process, tmp_path):
    script = str(ROOT / "recipes" / "sst2_finetune.py")
    folder, _ = launch(tmp_path, "fsdp", "--num_processes", "1", script, "--sample", *words, batch=32)
    check_same_run(folder, one_process, processes=1)
    assert list((folder / "checkpoints").glob("*/pytorch_model_fsdp.bin"))  # it was FSDP


@pytest.mark.slow
def test_deepspeed_runs_the_recipe_as_one_process_does(words, one_process, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed", reason="not among the requirements: pip install deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    script = str(ROOT / "recipes" / "sst2_finetune.py")
    folder, _ = launch(tmp_path, "deepspeed_zero2", "--num_processes", "2", script, "--sample", *words)
    check_same_run(folder, one_process)
    assert len(list((folder / "checkpoints" / "checkpoint-9").glob("*/*_optim_states.pt"))) == 2  # it was DeepSpeed


@pytest.mark.slow
def test_folds_of_two_processes_end_with_the_model_of_all_rows(words, tmp_path):
    words = [*words, "--folds", "2", "--phrases", "false"]
    folder, _ = launch(tmp_path, "cpu_2proc", str(ROOT / "recipes" / "sst2_finetune.py"), "--sample", *words)
    assert {path.name for path in folder.iterdir()} == {"fold-1", "fold-2", "final"}
    assert json.loads((folder / "final" / "report" / "metrics.json").read_text())["headline"]
