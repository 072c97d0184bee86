import contextlib
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, SAMPLE, wait_until
from datasets import Dataset, concatenate_datasets
from transformers import Trainer, TrainerCallback

from bertcls import BertClsForSequenceClassification, RecipeArguments, WindowCollator, load_splits, tokenize_windows
from bertcls.layout import COMPLETE
from bertcls.process import one_line_errors
from bertcls.training.checkpoints import (
    Checkpoints,
    clean_up_full_disk,
    describe_rows,
    newest_complete,
    write_complete,
)
from bertcls.training.launch import parse, parse_runs

QUICK = ["--max_train_samples", "56", "--per_device_train_batch_size", "16", "--num_train_epochs", "5"]
# its validation loss falls, so that the first epoch stays the best one and the third is the last
STOPS = ["--metric_for_best_model", "log_loss", "--greater_is_better", "true", "--early_stopping_patience", "2"]


def run(recipe, folder, *words):
    words = ["--sample", "--from_scratch", "--figures", "false", "--output_dir", str(folder), *QUICK, *STOPS, *words]
    options = {"defaults": recipe.DEFAULTS, "sample": recipe.SAMPLE}
    return recipe.main(*parse(RecipeArguments, words, **options))


@pytest.fixture(autouse=True)
def the_signal_as_it_was():
    """A run that is interrupted leaves its handler."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


class At(TrainerCallback):
    """Does something at the end of a step, or kills the run before an epoch as Ctrl+C does."""

    def __init__(self, *, epoch=None, step=None):
        self.epoch, self.step = epoch, step

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch == self.epoch:
            raise KeyboardInterrupt

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def with_callback(monkeypatch, recipe, callback) -> None:
    kept = recipe.training_callbacks
    more = functools.wraps(kept)(lambda *args, **kwargs: [*kept(*args, **kwargs), callback])
    monkeypatch.setattr(recipe, "training_callbacks", more)


@pytest.fixture(scope="module")
def whole(sst2_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(sst2_recipe, folder)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before an epoch", "by SIGTERM within an epoch", "after training"])
def test_a_run_that_was_stopped_ends_as_the_undisturbed_one(sst2_recipe, tmp_path, monkeypatch, capsys, whole, moment):
    first, expected = whole
    assert expected["epoch"] == 3.0  # early stopping is part of this
    with monkeypatch.context() as patch:
        if moment == "before an epoch":
            with_callback(patch, sst2_recipe, At(epoch=2))
        elif moment == "by SIGTERM within an epoch":
            with_callback(patch, sst2_recipe, At(step=6))
        else:
            patch.setattr("bertcls.training.finish.verify_saved", interrupt)
        with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
            run(sst2_recipe, tmp_path / "run")
    said = capsys.readouterr()
    if moment == "by SIGTERM within an epoch":
        assert caught.value.code == 143
        assert (
            f"Stopped by SIGTERM after step 6 of 20, which is saved. To go on, give --output_dir {tmp_path}"
            in said.err
        )
        assert not (tmp_path / "run" / "report").exists()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the next one ends it at once
    results = run(sst2_recipe, tmp_path / "run", "--resume_from_checkpoint")
    same = [name for name in expected if "runtime" not in name and "per_second" not in name and name != "train_loss"]
    assert len(same) > 30 and {name: results[name] for name in same} == {name: expected[name] for name in same}
    tables = [pd.read_parquet(folder / "report" / "predictions.parquet") for folder in (first, tmp_path / "run")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for folder in ("checkpoints/checkpoint-4", "checkpoints/checkpoint-12", "."):  # the best, the last, the saved
        files = [where / folder / "model.safetensors" for where in (first, tmp_path / "run")]
        assert files[0].read_bytes() == files[1].read_bytes(), folder
    states = [torch.load(where / "checkpoints/checkpoint-12/optimizer.pt") for where in (first, tmp_path / "run")]
    for key, state in states[0]["state"].items():
        assert torch.equal(state["exp_avg"], states[1]["state"][key]["exp_avg"])


@pytest.fixture(scope="module")
def begun(sst2_recipe, tmp_path_factory):
    """A run that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        with_callback(patch, sst2_recipe, At(epoch=1))
        run(sst2_recipe, folder)
    return folder


OTHERS = {
    "seed": (["--seed", "7"], "Found seed 7, expected 42 as in"),
    "rows": (["--max_train_samples", "55"], "Found training rows 55, expected 56"),
    "tokens": (["--max_length", "32"], "Found max_length 32, expected 64"),
    "cleaning": (["--cleaning", "none"], "Found cleaning with 0 entries, expected 3"),
    "batch": (
        ["--per_device_train_batch_size", "8"],
        "Found batch size (per device x accumulation x processes) 8, expected 16",
    ),
    "epochs": (["--num_train_epochs", "4"], "Found num_train_epochs 4.0, expected 5.0"),
    "frozen": (["--freeze_encoder"], "Found trainable parameters 130, expected 177922"),
    "encoder": (
        ["--model_name_or_path", "encoder", "--learning_rate", "1e-3", "--max_length", "64"]
        + ["--pooling", "mean", "--classifier_dropout", "0.5", "--from_scratch", "false"],
        "Found encoder weights",
    ),
    "labels": (["--dataset_name", "labels"], "Found labels with 3 entries, expected 2"),
    "contents": (["--dataset_name", "contents"], "Found content of the training rows"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_run_is_refused_before_training(sst2_recipe, begun, tmp_path, encoder_folder, capsys, case):
    words, message = OTHERS[case]
    if case == "encoder":
        words = [word.replace("encoder", encoder_folder) for word in words]
    if words[0] == "--dataset_name":
        (tmp_path / "data").mkdir()
        for name, split in load_splits(str(SAMPLE)).items():
            rows = split.remove_columns("example_id").rename_column("text", "sentence").to_pandas()
            rows["label"] = rows["label"].map({0: "negative", 1: "positive"})
            if case == "labels":
                rows.loc[:20, "label"] = "neutral"
            else:
                rows["sentence"] = rows["sentence"].str.replace("film", "movie")
            rows.to_json(tmp_path / "data" / f"{name}.jsonl", orient="records", lines=True)
        words = ["--dataset_name", str(tmp_path / "data")]
    shutil.copytree(begun, tmp_path / "run")
    with pytest.raises(SystemExit) as caught, one_line_errors():
        run(sst2_recipe, tmp_path / "run", *words, "--resume_from_checkpoint")
    assert caught.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in line and "/run/checkpoints/checkpoint-4: this is another run. Give the data and the" in line
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-4"]


def test_the_digest_of_the_rows_is_of_what_they_hold():
    rows = {"input_ids": [[[1, 2], [3]], [[4]], [[5, 6]]], "label": [0, 1, 0], "length": [3, 1, 2]}
    dataset = Dataset.from_dict(rows)
    parts = concatenate_datasets([dataset.select([0]), dataset.select([1, 2])])  # other chunks
    assert describe_rows(dataset) == describe_rows(parts) == describe_rows(dataset.select([2, 0, 1]).select([1, 2, 0]))
    for name, value in (
        ("input_ids", [[[1, 2], [3]], [[4]], [[5, 7]]]),
        ("input_ids", [[[1], [2, 3]], [[4]], [[5, 6]]]),
        ("label", [0, 1, 1]),
    ):
        assert describe_rows(Dataset.from_dict(rows | {name: value})) != describe_rows(dataset)
    assert describe_rows(dataset.select([1, 0, 2])) != describe_rows(dataset)
    taught = [describe_rows(Dataset.from_dict(rows | {"label": [each, b"", b""]})) for each in (b"a", b"b")]
    assert taught[0] == taught[1]  # vectors of a teacher: gigabytes, whose last bits differ on other processors
    assert describe_rows(dataset.to_iterable_dataset()) == {}


@pytest.fixture(scope="module")
def rows(tokenizer):
    rows = load_splits(str(SAMPLE))["train"].select(range(48))
    return rows.map(
        tokenize_windows, batched=True, remove_columns="text", fn_kwargs={"tokenizer": tokenizer, "max_length": 64}
    )


def train(encoder_folder, rows, tokenizer, folder, *words, more=()):
    _, training_args = parse(
        RecipeArguments,
        ["--output_dir", str(folder), "--use_cpu", "--eval_strategy", "no", *words],
        defaults={
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "metric_for_best_model": "loss",
        },
    )
    torch.manual_seed(0)
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, num_labels=2)
    trainer = Trainer(
        model,
        training_args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=WindowCollator(tokenizer),
        callbacks=[Checkpoints(), *more],
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["1", "2"])
def test_a_kill_before_the_record_is_written_leaves_an_earlier_checkpoint(
    encoder_folder, rows, tokenizer, tmp_path, monkeypatch, capsys, limit
):
    def killed_at_the_second(checkpoint, facts):
        if checkpoint.name == "checkpoint-6":
            raise KeyboardInterrupt
        write_complete(checkpoint, facts)

    monkeypatch.setattr("bertcls.training.checkpoints.write_complete", killed_at_the_second)
    words = ["--save_total_limit", limit, "--eval_strategy", "epoch", "--early_stopping_patience", "0"]
    with pytest.raises(KeyboardInterrupt):
        train(encoder_folder, rows, tokenizer, tmp_path, *words)
    folder = tmp_path / "checkpoints"
    found, skipped = newest_complete(folder)
    assert found == folder / "checkpoint-3" and skipped == ["checkpoint-6 (no complete.json)"]
    assert (folder / "checkpoint-6" / "trainer_state.json").exists()  # Trainer itself had come to its end
    monkeypatch.undo()
    trainer = train(encoder_folder, rows, tokenizer, tmp_path, *words, "--resume_from_checkpoint")
    assert "Resuming from checkpoint-3; skipped checkpoint-6 (no complete.json)." in capsys.readouterr().out
    best = Path(trainer.state.best_model_checkpoint)
    kept = {path.name for path in folder.iterdir()}
    assert kept == ({"checkpoint-6", best.name} if limit == "1" else {"checkpoint-3", "checkpoint-6"})
    assert all((folder / name / COMPLETE).is_file() for name in kept)
    assert trainer.args.save_total_limit == int(limit)


def test_a_checkpoint_that_does_not_fit_its_record_is_skipped_and_refused(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (9, 10, 30, 40, 50):
        (folder / f"checkpoint-{step}" / "inner").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "inner" / "weights").write_text("12345")
        write_complete(folder / f"checkpoint-{step}", {})
    (folder / "checkpoint-30" / "inner" / "weights").write_text("123")
    (folder / "checkpoint-40" / "inner" / "weights").unlink()
    (folder / "checkpoint-50" / COMPLETE).write_text('{"files"')
    words = ["--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"]
    _, training_args = parse(RecipeArguments, words, defaults={})
    assert training_args.resume_from_checkpoint == str(folder / "checkpoint-10")  # of numbers, not of names
    assert newest_complete(folder)[1] == [
        "checkpoint-50 (unreadable complete.json)",
        "checkpoint-40 (inner/weights is missing)",
        "checkpoint-30 (inner/weights has 3 bytes, expected 5)",
    ]
    with pytest.raises(FileNotFoundError, match="resume from in .*checkpoint-30: inner/weights has 3 bytes"):
        parse(RecipeArguments, [*words, str(folder / "checkpoint-30")], defaults={})
    (folder / "checkpoint-9" / COMPLETE).unlink()
    with pytest.raises(FileNotFoundError, match="checkpoint-9: no complete.json; expected"):
        parse(RecipeArguments, [*words, str(folder / "checkpoint-9")], defaults={})


def test_a_changed_file_of_the_same_size_is_seen_on_resuming(tmp_path):
    for step in (3, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"weights")
        write_complete(tmp_path / f"checkpoint-{step}", {})
    (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"\0" * 7)
    earlier = tmp_path / "checkpoint-3"
    assert newest_complete(tmp_path) == (
        earlier,
        ["checkpoint-6 (model.safetensors was changed after it was written)"],
    )
    record = json.loads((earlier / COMPLETE).read_text())
    (earlier / COMPLETE).write_text(json.dumps({"files": record["files"]}))  # as earlier versions wrote it
    assert newest_complete(tmp_path)[0] == earlier
    (earlier / COMPLETE).write_text("[" * 99_999)
    assert newest_complete(tmp_path)[1][1] == "checkpoint-3 (unreadable complete.json)"


def test_resuming_touches_no_folder_but_that_of_the_run(encoder_folder, rows, tokenizer, tmp_path):
    train(encoder_folder, rows, tokenizer, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    shutil.copytree(checkpoint, tmp_path / "saved" / "checkpoint-3")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="does not lie in a folder checkpoints of a run. Name the folder"):
        parse(RecipeArguments, ["--resume_from_checkpoint", str(tmp_path / "saved" / "checkpoint-3")], defaults={})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="other is not empty"):
        train(encoder_folder, rows, tokenizer, tmp_path / "other", "--resume_from_checkpoint", str(checkpoint))
    trainer = train(encoder_folder, rows, tokenizer, tmp_path / "new", "--resume_from_checkpoint", str(checkpoint))
    assert trainer.state.global_step > 3 and checkpoint.is_dir()
    assert (tmp_path / "other" / "README.md").read_text() == "mine" == (tmp_path / "README.md").read_text()


def test_folders_that_only_look_like_checkpoints_stay(encoder_folder, rows, tokenizer, tmp_path, capsys):
    names = ("checkpoint-best", "checkpoint-old-2024", "checkpoint-1-mine", "checkpoint-1")
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "notes").write_text("mine")
    train(encoder_folder, rows, tokenizer, tmp_path, "--overwrite_output")
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {*names[:3]} <= left and "checkpoint-1" not in left
    assert "Removed checkpoint-1, which is not whole (no complete.json)." in capsys.readouterr().out


@pytest.mark.slow
def test_a_copied_run_loads_its_own_best_model_or_none(encoder_folder, rows, tokenizer, tmp_path):
    words = ["--eval_strategy", "epoch", "--greater_is_better", "true"]  # the loss falls: the first epoch is best
    trainer = train(encoder_folder, rows, tokenizer, tmp_path / "run", *words)
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-3"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    again = train(encoder_folder, rows, tokenizer, tmp_path / "copy", *words, "--resume_from_checkpoint")
    assert Path(again.state.best_model_checkpoint) == tmp_path / "copy" / "checkpoints" / best.name
    shutil.copytree(tmp_path / "run", tmp_path / "broken")
    (tmp_path / "broken" / "checkpoints" / best.name / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="optimizer.pt is missing; expected the best model so far"):
        train(encoder_folder, rows, tokenizer, tmp_path / "broken", *words, "--resume_from_checkpoint")


def test_of_several_seeds_those_that_had_not_begun_begin_anew(tmp_path):
    checkpoint = tmp_path / "seed-1" / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    write_complete(checkpoint, {})
    (tmp_path / "seed-2").mkdir()
    (tmp_path / "seed-2" / "audit.json").write_text("{}")
    (tmp_path / "seed-3" / "checkpoints" / "checkpoint-4").mkdir(parents=True)  # killed in its first save
    (tmp_path / "seed-3" / "checkpoints" / "checkpoint-4" / "model.safetensors").write_text("cut off")
    words = ["--seeds", "1", "2", "3", "--output_dir", str(tmp_path), "--resume_from_checkpoint"]
    found = [
        training_args.resume_from_checkpoint for _, training_args in parse_runs(RecipeArguments, words, defaults={})
    ]
    assert found == [str(checkpoint), None, None]
    for number, headline in ((2, "A report."), (3, "")):  # few rows; the latter was killed before its report was whole
        (tmp_path / f"seed-{number}" / "report").mkdir()
        facts = json.dumps({"headline": headline})
        (tmp_path / f"seed-{number}" / "report" / "metrics.json").write_text(facts)
        (tmp_path / f"seed-{number}" / "model.safetensors").touch()
    runs = [args.run_dir for args, _ in parse_runs(RecipeArguments, words, defaults={})]
    assert runs == [str(tmp_path / "seed-1"), str(tmp_path / "seed-3")]


@pytest.mark.slow
def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones(
    encoder_folder, rows, tokenizer, tmp_path, monkeypatch, capsys
):
    train(encoder_folder, rows, tokenizer, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        back = ["--resume_from_checkpoint", str(tmp_path / "checkpoints" / "checkpoint-3")]
        train(encoder_folder, rows, tokenizer, tmp_path, *back, more=[At(epoch=1)])
    assert "Removed checkpoint-6, which came after" in capsys.readouterr().out
    assert newest_complete(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "checkpoint-3", [])


@pytest.mark.slow
def test_more_epochs_are_allowed_and_fewer_are_not(encoder_folder, rows, tokenizer, tmp_path, capsys):
    train(encoder_folder, rows, tokenizer, tmp_path)
    export = tmp_path / "onnx" / "pooling.onnx"
    export.parent.mkdir()
    export.write_text("of the trained model")
    again = train(encoder_folder, rows, tokenizer, tmp_path, "--resume_from_checkpoint")
    assert again.state.global_step == 6 and "Warning" not in capsys.readouterr().out and export.exists()
    words = ["--resume_from_checkpoint", "--num_train_epochs", "3"]
    longer = train(encoder_folder, rows, tokenizer, tmp_path, *words)
    assert longer.state.global_step == 9 and not export.exists()  # of weights that are no more
    assert capsys.readouterr().out.count("Warning: found 3 epochs, not 2 epochs as before: the schedule of") == 1
    with pytest.raises(ValueError, match="Found num_train_epochs 2.0, expected 3.0 as in"):
        train(encoder_folder, rows, tokenizer, tmp_path, "--resume_from_checkpoint")


@pytest.mark.slow
def test_a_model_saved_alone_ends_a_run_and_does_not_go_on(encoder_folder, rows, tokenizer, tmp_path):
    train(encoder_folder, rows, tokenizer, tmp_path, "--save_only_model")
    again = train(encoder_folder, rows, tokenizer, tmp_path, "--save_only_model", "--resume_from_checkpoint")
    assert again.state.global_step == 6
    with pytest.raises(ValueError, match="Found the model alone in .*checkpoint-6; expected the states of the opt"):
        train(encoder_folder, rows, tokenizer, tmp_path, "--num_train_epochs", "3", "--resume_from_checkpoint")


@pytest.mark.slow
def test_a_run_of_steps_that_had_ended_makes_no_further_one(encoder_folder, rows, tokenizer, tmp_path):
    words = ["--max_steps", "4", "--save_strategy", "epoch"]  # within the second epoch of three steps
    first = train(encoder_folder, rows, tokenizer, tmp_path, *words)
    again = train(encoder_folder, rows, tokenizer, tmp_path, *words, "--resume_from_checkpoint")
    assert first.state.global_step == again.state.global_step == 4
    assert again.args.max_steps == 4
    for (name, one), (_, other) in zip(first.model.named_parameters(), again.model.named_parameters()):
        assert torch.equal(one, other), name


FAILURES = {
    "Python's": OSError(errno.ENOSPC, "No space left on device"),
    "torch's": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}


@pytest.mark.slow
@pytest.mark.parametrize("whose", FAILURES)
def test_a_full_disk_leaves_the_last_whole_checkpoint(
    encoder_folder, rows, tokenizer, tmp_path, monkeypatch, capsys, whose
):
    kept = torch.save

    def fail(value, path, **kwargs):
        if "checkpoint-6" in str(path):
            raise FAILURES[whose]
        kept(value, path, **kwargs)

    monkeypatch.setattr(torch, "save", fail)
    explain = functools.partial(clean_up_full_disk, under_way=tmp_path / "checkpoints")
    with pytest.raises(SystemExit) as caught, one_line_errors(explain):
        train(encoder_folder, rows, tokenizer, tmp_path)
    assert caught.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert f"The folder {tmp_path} could not be written" in line
    assert f"{tmp_path}/checkpoints/checkpoint-3 is whole, and --resume_from_checkpoint goes on from it" in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with (
        pytest.raises(RuntimeError, match="CUDA error"),
        one_line_errors(functools.partial(clean_up_full_disk, under_way=tmp_path)),
    ):
        raise RuntimeError("CUDA error: an illegal memory access")
    assert (tmp_path / "checkpoint-1").exists()


@pytest.mark.slow
def test_a_disk_that_is_really_full(encoder_folder, rows, tokenizer, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]  # room for two checkpoints
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    explain = functools.partial(clean_up_full_disk, under_way=disk / "run" / "checkpoints")
    try:
        with pytest.raises(SystemExit) as caught, one_line_errors(explain):
            train(encoder_folder, rows, tokenizer, disk / "run", "--save_total_limit", "9", "--num_train_epochs", "4")
        assert caught.value.code == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        assert f"The folder {disk}/run could not be written" in line and "checkpoint-6 is whole" in line
        found, skipped = newest_complete(disk / "run" / "checkpoints")
        assert found.name == "checkpoint-6" and skipped == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the run's lock may still be open


@pytest.mark.slow
def test_sigterm_stops_all_processes_at_one_step(tmp_path):
    """The launcher passes the signal on, which comes when training begins."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        sys.executable,
        *command,
        str(ROOT / "recipes" / "sst2_finetune.py"),
        "--sample",
        "--from_scratch",
        "--output_dir",
        "run",
    ]
    command += ["--num_train_epochs", "500", "--early_stopping_patience", "0", "--disable_tqdm", "true"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
    with open(tmp_path / "log", "w") as log:
        options = {"cwd": tmp_path, "env": environment, "stdout": log, "stderr": log, "start_new_session": True}
        process = subprocess.Popen(command, **options)
    try:
        wait_until(lambda: "Longest batch: " in (tmp_path / "log").read_text(), seconds=300)  # training begins
        process.terminate()
        process.wait(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the launcher's children, too
    said = (tmp_path / "log").read_text()
    assert process.returncode != 0
    assert said.count("Stopped by SIGTERM after step ") == 1
    found, skipped = newest_complete(tmp_path / "run" / "checkpoints")
    assert skipped == [] and f"after step {found.name.split('-')[1]} of" in said
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in found.iterdir()}
    assert not (tmp_path / "run" / "report").exists()
