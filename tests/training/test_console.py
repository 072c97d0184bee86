"""What a run says: a line an epoch, no dicts and no bars in a log, and one line when it is stopped."""

import logging
import os
import re
import signal
import subprocess
import sys

import pytest
import transformers.trainer
from conftest import ROOT, wait_until
from helpers import run_recipe_main
from transformers import ProgressCallback

from bertcls import RecipeArguments
from bertcls.layout import STUDY
from bertcls.training.checkpoints import how_to_go_on, write_complete
from bertcls.training.launch import run_recipe

QUICK = ["--max_train_samples", "64", "--num_train_epochs", "3", "--learning_rate", "0.003"]


@pytest.mark.slow
@pytest.mark.parametrize("bars", ["false", "true"])
def test_a_run_prints_a_line_an_epoch(sst2_recipe, tmp_path, capsys, bars):
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--disable_tqdm", bars)
    said, logged = capsys.readouterr()
    lines = said.splitlines()
    head = lines.index("epoch  train loss  validation loss  calibrated loss  accuracy")
    rows = [line.split() for line in lines[head + 1 : head + 5]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert len(rows[0]) == 4 and all(len(row) in (5, 6) for row in rows[1:])  # nothing was trained before the first
    assert rows[1][5:] == ["best"] and all(row[5:] in ([], ["best"]) for row in rows)
    scores = [float(row[3]) for row in rows[1:]]
    best = max(number for number, row in enumerate(rows) if row[5:])
    assert scores[best - 1] == min(scores)
    assert len({line.rfind(".") for line in lines[head + 1 : head + 5] if not line.endswith("best")}) == 1  # aligned
    assert not re.search(r"\{'|Loading weights|Writing model shards|Map|Casting|longer than the spec", said + logged)
    assert "Longest batch: " in said and "and the evaluations, and " in said
    assert transformers.trainer.DEFAULT_PROGRESS_CALLBACK is ProgressCallback  # of other Trainers of the process


@pytest.mark.slow
def test_a_run_without_evaluation_prints_its_training_loss(sst2_recipe, tmp_path, capsys):
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--eval_strategy", "no")
    lines = capsys.readouterr().out.splitlines()
    head = lines.index("epoch  train loss")
    assert [line.split()[0] for line in lines[head + 1 : head + 4]] == ["1", "2", "3"]


@pytest.mark.slow
def test_the_mark_is_of_the_metric_that_chooses(sst2_recipe, tmp_path, capsys):
    words = ["--metric_for_best_model", "log_loss", "--greater_is_better", "true"]
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, *words)
    lines = capsys.readouterr().out.splitlines()
    head = lines.index("epoch  train loss  validation loss  log loss  accuracy")
    rows = [line.split() for line in lines[head + 2 : head + 5]]
    marked = [row for row in rows if row[-1] == "best"]
    assert marked and float(marked[-1][3]) == max(float(row[3]) for row in rows)


@pytest.mark.slow
def test_warnings_that_alarm_for_nothing_are_silent(sst2_recipe, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--max_length", "12")
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--max_length", "12", "--resume_from_checkpoint")
    assert "(from args) !=" not in caplog.text and "longer than" not in caplog.text
    logging.getLogger("transformers.trainer_utils").warning("Another one.")
    assert "Another one." in caplog.text


def interrupted(args, training_args):
    raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys):
    words = ["--output_dir", str(tmp_path / "run"), "--seed", "3"]
    with pytest.raises(SystemExit) as caught:
        run_recipe(interrupted, RecipeArguments, words, defaults={})
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped by Ctrl+C. No checkpoint is whole yet: begin anew."
    assert not (tmp_path / "run").exists()

    def after_a_save(args, training_args):
        checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-4"
        checkpoint.mkdir()
        write_complete(checkpoint, {})
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_recipe(after_a_save, RecipeArguments, words, defaults={})
    said = capsys.readouterr().err
    go_on = f"To go on, give --output_dir {tmp_path / 'run'} --resume_from_checkpoint and the same options."
    assert said.splitlines()[-1] == f"Stopped by Ctrl+C. {go_on}" and "Traceback" not in said
    assert how_to_go_on(tmp_path / "run" / "checkpoints") == go_on
    (tmp_path / "run").rename(tmp_path / "seed-3")
    assert f"--output_dir {tmp_path} --resume" in how_to_go_on(tmp_path / "seed-3" / "checkpoints")
    (tmp_path / STUDY).touch()
    for run in ("trial", "final/trial-2/seed-1"):  # of a search
        assert how_to_go_on(tmp_path / run / "checkpoints") == "The same command goes on."
    assert f"--output_dir {tmp_path} --resume" in how_to_go_on(tmp_path / "seed-3" / "checkpoints")


@pytest.mark.slow
def test_ctrl_c_ends_a_recipe_with_one_line(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "recipes" / "sst2_finetune.py"),
        "--sample",
        "--from_scratch",
        "--output_dir",
        "run",
    ]
    command += ["--num_train_epochs", "500", "--early_stopping_patience", "0"]
    with open(tmp_path / "log", "w") as log:
        options = {"cwd": tmp_path, "stdout": log, "stderr": log, "env": {**os.environ, "PYTHONUNBUFFERED": "1"}}
        options["preexec_fn"] = lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a job in the background ignores it
        process = subprocess.Popen(command, **options)
    try:
        wait_until(lambda: list(tmp_path.glob("run/checkpoints/*/complete.json")), seconds=300)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
    lines = (tmp_path / "log").read_text().splitlines()
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("Stopped by Ctrl+C. To go on, give --output_dir run --resume_from_checkpoint")


def test_a_refused_start_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    def refused(args, training_args):
        raise ValueError("Found a; expected b.")

    for words in ([], ["--output_dir", "new"], ["--output_dir", "mine"]):
        with pytest.raises(SystemExit) as caught:
            run_recipe(refused, RecipeArguments, words, defaults={})
        assert caught.value.code == 2 and capsys.readouterr().err.startswith("error: Found a; expected b.")
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}  # which was there before

    def refused_late(args, training_args):
        (tmp_path / args.run_dir / "audit.json").write_text("{}")
        raise ValueError("Found a; expected b.")

    with pytest.raises(SystemExit):
        run_recipe(refused_late, RecipeArguments, [], defaults={})
    assert len([*tmp_path.glob("runs/*/audit.json")]) == 1
