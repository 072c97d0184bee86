"""A launcher that starts the processes of a run again: which attempt goes on where, and what it may not remove."""

import json

import pytest
from conftest import SAMPLE, TINY

from bertcls import RecipeArguments
from bertcls.layout import CHECKPOINTS, LAUNCH
from bertcls.training import launch
from bertcls.training.checkpoints import write_complete
from bertcls.training.launch import parse, parse_runs


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Parses the command line of an attempt of launchers that began at these seconds."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")

    def attempt(began: tuple[float, float], *words: str, named: bool = True):
        found = [["node0", 7, began[0]], ["node1", 7, began[1]]]
        monkeypatch.setattr(launch, "launchers", lambda: found)
        words = ["--dataset_name", str(SAMPLE), "--model_name_or_path", str(TINY), *words]
        words += ["--output_dir", str(tmp_path / "run")] if named else []
        args, training_args = parse(RecipeArguments, words, defaults={})
        args.lock.release()
        return args, training_args

    return attempt


def save(folder, step: int) -> None:
    (folder / CHECKPOINTS / f"checkpoint-{step}").mkdir(parents=True)
    (folder / CHECKPOINTS / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"weights")
    write_complete(folder / CHECKPOINTS / f"checkpoint-{step}", {})


def test_another_attempt_begins_anew_or_goes_on_from_the_newest_whole_checkpoint(start, tmp_path, capsys):
    args, training_args = start((1.0, 2.0))
    assert training_args.resume_from_checkpoint is None and not args.overwrite_output and training_args.eval_on_start
    (tmp_path / "run" / "audit.json").write_text("{}")  # and it was killed
    args, training_args = start((1.0, 2.0))
    assert "Another attempt: no checkpoint is whole yet." in capsys.readouterr().out
    assert training_args.resume_from_checkpoint is None and args.overwrite_output and training_args.eval_on_start
    save(tmp_path / "run", 4)
    save(tmp_path / "run", 8)
    (tmp_path / "run" / CHECKPOINTS / "checkpoint-8" / "model.safetensors").write_bytes(b"cut")
    args, training_args = start((1.0, 2.0))
    assert "Another attempt: goes on from checkpoint-4." in capsys.readouterr().out
    assert training_args.resume_from_checkpoint.endswith("checkpoint-4") and not args.overwrite_output
    assert not training_args.eval_on_start and training_args.restore_callback_states_from_checkpoint


def test_an_attempt_leaves_what_another_launch_wrote(start, tmp_path):
    start((1000.0, 1001.0))
    (tmp_path / "run" / "audit.json").write_text("{}")
    save(tmp_path / "run", 4)
    before = (tmp_path / "run" / LAUNCH).read_text()
    for _ in range(4):  # attempts of later launchers, which have the numbers of the first ones
        with pytest.raises(FileExistsError, match="is not empty"):
            start((2000.0, 2001.0))
    assert (tmp_path / "run" / LAUNCH).read_text() == before
    assert (tmp_path / "run" / CHECKPOINTS / "checkpoint-4").is_dir()
    start((1000.0, 2001.0))  # one machine was started anew, the other launcher is still there
    assert json.loads((tmp_path / "run" / LAUNCH).read_text())[1][2] == 2001.0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--overwrite_output"], "Found --overwrite_output with --max_restarts 3"),
        (["--save_on_each_node", "true"], "Found --save_on_each_node with --max_restarts 3"),
        (None, "Found no --output_dir with --max_restarts 3"),
    ],
)
def test_what_an_attempt_could_not_go_on_with(start, words, found):
    with pytest.raises(ValueError, match=found):
        start((1.0, 2.0), *(words or []), named=words is not None)


def test_several_seeds_begin_and_go_on_in_each_attempt(start, tmp_path):
    start((1.0, 2.0))
    words = ["--dataset_name", str(SAMPLE), "--model_name_or_path", str(TINY), "--output_dir", str(tmp_path / "seeds")]
    words += ["--seeds", "1", "2", "--resume_from_checkpoint"]
    for _ in range(2):
        for args, _training_args in parse_runs(RecipeArguments, words, defaults={}):
            args.lock.release()
            (tmp_path / "seeds" / "seed-1" / "audit.json").write_text("{}")  # and it was killed


def test_attempts_that_share_their_addresses(start, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ValueError, match="expected --rdzv_backend c10d and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        start((1.0, 2.0))
