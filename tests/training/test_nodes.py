"""Two machines, as two network namespaces: the commands of the documents, the results of one machine, and faults."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_recipe, wait_until
from helpers import save_model
from safetensors.torch import load_file

from bertcls.serve.bulk import parts_folder
from bertcls.training.checkpoints import newest_complete
from bertcls.training.options import parse_options

sys.path.insert(0, str(ROOT / "benchmarks"))
from namespaces import Machines, kill, why_none, worker_of

TEXT = (ROOT / "recipes" / "NODES.md").read_text(encoding="utf-8")
OPTIONS = "--from_scratch --bf16 false --max_train_samples 96 --early_stopping_patience 0 --figures false".split()
OPTIONS += ["--num_train_epochs"]
ENDS = 300  # seconds at most, of what would hang for ever
two_machines = pytest.mark.skipif(why_none() is not None, reason=str(why_none()))


def words_of(name: str, shared: Path, *more: str) -> list[list[str]]:
    """A command of the documents on each of two machines, with `/shared` where it is here."""
    line = re.search(rf"<!-- nodes: {name} -->\n```bash\n(.*?)\n```", TEXT, re.DOTALL)[1]
    words = [word.replace("/shared", str(shared)) for word in ["env", *shlex.split(line)]]
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words] + [*map(str, more)]
    rank = words.index("--machine_rank") + 1 if "--machine_rank" in words else 0
    return [[str(number) if place == rank > 0 else word for place, word in enumerate(words)] for number in (0, 1)]


def start(machines: Machines, name: str, shared: Path, *more: str) -> list[subprocess.Popen]:
    """Both launchers; what they and their processes say is in `said-0` and `said-1`, from the last start on."""
    found = []
    for number, words in enumerate(words_of(name, shared, *more)):
        with open(shared / f"said-{number}", "w") as said:
            found.append(machines.start(number, words, stdout=said, stderr=subprocess.STDOUT))
    return found


def said(shared: Path) -> str:
    return "".join((shared / f"said-{number}").read_text() for number in (0, 1))


def ended(launchers: list[subprocess.Popen]) -> list[int]:
    return [launcher.wait(ENDS) for launcher in launchers]


def begun(run: Path, launchers: list[subprocess.Popen]) -> None:
    """Waits for the first whole checkpoint."""
    there = lambda: any(run.glob("checkpoints/*/complete.json"))  # noqa: E731
    wait_until(lambda: there() or any(launcher.poll() is not None for launcher in launchers), ENDS)
    assert there()


def trained(run: Path) -> tuple[dict, list[dict]]:
    """The weights of a run, and the losses and scores of its steps and evaluations."""
    newest, _ = newest_complete(run / "checkpoints")
    timed = re.compile("runtime|per_second|flos")
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    losses = [{name: value for name, value in line.items() if not timed.search(name)} for line in history]
    return load_file(run / "model.safetensors"), losses


def check_same(run: Path, other: Path) -> None:
    (weights, losses), (their_weights, their_losses) = trained(run), trained(other)
    assert len(losses) > 8 and losses == their_losses
    assert weights.keys() == their_weights.keys()
    assert all(weights[name].equal(tensor) for name, tensor in their_weights.items())
    reports = [path / "report" / "predictions.parquet" for path in (run, other)]
    assert reports[0].read_bytes() == reports[1].read_bytes()


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory) -> Path:
    """A run of two processes of one machine."""
    run = tmp_path_factory.mktemp("one") / "run"
    words = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet", "--config_file"]
    words += [ROOT / "recipes" / "accelerate_configs" / "cpu_2proc.yaml", ROOT / "recipes" / "sst2_finetune.py"]
    subprocess.run([*words, "--sample", "--output_dir", run, *OPTIONS, "8"], check=True, timeout=ENDS)
    return run


@pytest.mark.slow
@two_machines
def test_two_machines_train_as_one_does(one_machine, tmp_path):
    with Machines() as machines:
        assert ended(start(machines, "train", tmp_path, *OPTIONS, "8")) == [0, 0], said(tmp_path)[-3000:]
    check_same(tmp_path / "run", one_machine)
    assert said(tmp_path).count("test accuracy") == 1  # rank 0 alone speaks
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in one_machine.iterdir()}


@pytest.mark.slow
@two_machines
def test_a_killed_process_is_started_again_and_ends_as_an_undisturbed_run(one_machine, tmp_path):
    with Machines() as machines:
        launchers = start(machines, "restart", tmp_path, *OPTIONS, "8")
        begun(tmp_path / "run", launchers)
        worker_of(launchers[1]).kill()
        assert ended(launchers) == [0, 0], said(tmp_path)[-3000:]
        assert said(tmp_path).count("Another attempt: goes on from checkpoint-") == 1
        check_same(tmp_path / "run", one_machine)


@pytest.mark.slow
@two_machines
def test_a_cut_cable_ends_a_run_that_would_hang(tmp_path):
    with Machines() as machines:
        launchers = start(machines, "train", tmp_path, *OPTIONS, "5000", "--ddp_timeout", "10")
        begun(tmp_path / "run", launchers)
        machines.cut()
        assert 0 not in ended(launchers)
    for number in (0, 1):
        assert "Lost another process, or the link to it" in (tmp_path / f"said-{number}").read_text()


@pytest.mark.slow
@two_machines
def test_a_machine_that_dies_loses_nothing_that_was_labelled(encoder_folder, tmp_path):
    rows = [f"good film {row} {'bad ' * (row % 50)}\n" for row in range(4000)]
    (tmp_path / "new.csv").write_text("text\n" + "".join(rows))
    save_model(encoder_folder, tmp_path / "mine")
    options = ["--rows_per_part", "40", "--cpu_threads", "1"]
    folder, recipe = parts_folder(tmp_path / "labels.parquet"), load_recipe("predict")
    with Machines() as machines:
        launchers = start(machines, "predict", tmp_path, *options)
        wait_until(lambda: len([*folder.glob("part-*.json")]) > 10 or launchers[0].poll() is not None, ENDS)
        kill(launchers[1])
        assert ended(launchers[:1]) != [0] and "Lost another process" in said(tmp_path)
        there = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.json")}
        assert 10 < len(there) < 100 and not (tmp_path / "labels.parquet").exists()
        assert {int(path.stem[5:]) % 2 for path in there} == {0, 1}
    words = words_of("predict", tmp_path, *options)[0]
    words = words[words.index(str(ROOT / "recipes" / "predict.py")) + 1 :]
    written = []
    ours = recipe.predict_parts

    def spy(*given, **options):
        found = ours(*given, **options)
        written.append({path: path.stat().st_mtime_ns for path in there})
        return found

    recipe.predict_parts = spy
    recipe.main(parse_options(recipe.Arguments, words, description=""))
    assert written == [there]  # none was labelled again
    recipe.predict_parts, output = ours, (tmp_path / "labels.parquet").read_bytes()
    other = [*words, "--output_file", str(tmp_path / "whole.parquet")]
    recipe.main(parse_options(recipe.Arguments, other, description=""))
    assert output == (tmp_path / "whole.parquet").read_bytes()
