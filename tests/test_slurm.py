"""The batch scripts of the documents: a shell takes them, and starts commands that are understood."""

import os
import re
import shutil
import subprocess

import pytest
from accelerate.commands.launch import launch_command_parser
from conftest import ROOT, load_recipe

from bertcls import RecipeArguments
from bertcls.training.launch import parse
from bertcls.training.options import parse_options

SCRIPTS = re.findall(r"```sh\n(.*?)```", (ROOT / "recipes" / "NODES.md").read_text(encoding="utf-8"), re.DOTALL)
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def said_by(script: str, folder, **job: str) -> list[str]:
    """The words that a script would start its program with, as the job of a queue."""
    for name, line in {
        "srun": 'printf "%s\\n" "$@"',
        "python": 'printf "%s\\n" "$@"',
        "scontrol": "echo node7",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]", **job}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_batch_script_starts_a_training_and_goes_on_with_it(tmp_path):
    script = SCRIPTS[0].replace("/shared", str(tmp_path))
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "123456"}
    words = said_by(script, tmp_path, **job)
    assert words[:2] == ["accelerate", "launch"] and "--resume_from_checkpoint" not in words
    launch = launch_command_parser().parse_args(words[2:])
    assert (launch.num_machines, launch.num_processes, launch.main_process_ip) == (2, 8, "node7")
    assert (launch.rdzv_backend, launch.max_restarts, launch.main_process_port) == ("c10d", 3, 23456)
    assert (ROOT / launch.training_script).is_file() and (ROOT / launch.config_file).is_file()
    recipe = load_recipe("csv_finetune")
    args, _ = parse(RecipeArguments, launch.training_script_args, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    assert args.train_file == str(tmp_path / "mine.csv")
    whole = tmp_path / "runs" / "mine" / "checkpoints" / "checkpoint-5" / "complete.json"
    whole.parent.mkdir(parents=True)
    whole.touch()
    assert said_by(script, tmp_path, **job) == [*words, "--resume_from_checkpoint"]


@pytest.mark.parametrize(("task", "shard"), [("1", "1/16"), ("16", "16/16"), ("0", None)])
def test_the_jobs_of_an_array(task, shard, tmp_path):
    assert len(SCRIPTS) == 2
    words = said_by(SCRIPTS[1], tmp_path, SLURM_ARRAY_TASK_ID=task)
    assert words[0] == "recipes/predict.py"
    assert parse_options(load_recipe("predict").Arguments, words[1:], description="").shard == shard


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script, tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    (tmp_path / "job.sh").write_text(script)
    found = subprocess.run(["shellcheck", tmp_path / "job.sh"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
