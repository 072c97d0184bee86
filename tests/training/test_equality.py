"""Settings that must not change the result: micro-batches, processes."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from equality import distilled_step, first_step

pytestmark = pytest.mark.slow  # two processes start for all of them


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    script = ROOT / "tests" / "equality.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [*command, str(script), str(folder)], capture_output=True, text=True, env=environment, timeout=570
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "result.pt")


@pytest.mark.parametrize("class_weights", [None, [0.75, 1.5]])
def test_micro_batches_and_processes_give_the_same_step(class_weights, two_processes, tmp_path):
    whole = first_step(str(tmp_path / "16x1"), 16, 1, class_weights)
    assert whole["update"].abs().max() > 1e-2
    others = {f"{b}x{a}": first_step(str(tmp_path / f"{b}x{a}"), b, a, class_weights) for b, a in ((4, 4), (2, 8))}
    others["two processes of 8"] = two_processes[str(class_weights)]
    for name, other in others.items():
        assert other["loss"] == pytest.approx(whole["loss"], abs=1e-5), name
        torch.testing.assert_close(other["update"], whole["update"], atol=1e-5, rtol=0, msg=name)


def test_two_processes_learn_from_a_teacher_as_one_does(two_processes, tmp_path):
    whole, other = distilled_step(str(tmp_path), 16, 1), two_processes["distilled"]
    assert other["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    torch.testing.assert_close(other["update"], whole["update"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "max"])
def test_two_processes_train_with_each_pooling(pooling, two_processes):
    assert two_processes[pooling] == 3


def test_two_processes_see_every_example_once_in_each_epoch(two_processes):
    for epoch in two_processes["epochs"]:
        assert sorted(epoch) == list(range(1000, 1400))
    assert two_processes["epochs"][0] != two_processes["epochs"][1]


def test_two_processes_score_each_example_once(two_processes):
    assert sorted(two_processes["scored"]) == list(range(1000, 1037))


def test_two_processes_keep_the_same_weights(two_processes):
    first, second = two_processes["checksums"]
    assert first == second
