import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import load_recipe

from bertcls import RecipeArguments, RunArguments
from bertcls.process import cores_per_process, one_line_errors
from bertcls.training.checkpoints import clear_output
from bertcls.training.launch import parse, parse_runs, run_recipe

DEFAULTS = {"learning_rate": 5e-5, "num_train_epochs": 3, "max_length": 64}


@pytest.fixture
def parsed(tmp_path):
    def parse_words(*words, sample=None):
        if "--output_dir" not in words:
            words = (*words, "--output_dir", str(tmp_path / "run"))
        return parse(RecipeArguments, list(words), defaults=DEFAULTS, sample=sample)

    return parse_words


def test_the_command_line_wins_over_the_recipe_and_the_sample(parsed):
    args, training_args = parsed("--learning_rate", "1e-3")
    assert (training_args.learning_rate, training_args.num_train_epochs, args.max_length) == (1e-3, 3, 64)
    sample = {"max_length": 16, "num_train_epochs": 9}
    args, training_args = parsed("--sample", "--num-train-epochs=2", sample=sample)
    assert (args.sample, args.max_length, training_args.num_train_epochs) == (True, 16, 2)
    for words in ([], ["--sample", "false"]):
        args, _ = parsed(*words, sample=sample)
        assert args.max_length == 64


def test_a_recipe_for_a_file_of_ones_own_has_its_sample_and_other_data(tmp_path):
    own = {"train_file": "mine.csv", "test_file": "test.csv", "text_column": "body", "language": "de"}
    sample = {"dataset_name": "sample/reviews", "max_length": 16}

    def read(*words) -> tuple:
        words = [*words, "--output_dir", str(tmp_path / "run")]
        args, _ = parse(RecipeArguments, words, defaults=DEFAULTS | own, sample=sample)
        return args.train_file, args.test_file, args.dataset_name, args.text_column, args.language

    assert read() == ("mine.csv", "test.csv", None, "body", "de")
    assert read("--sample") == (None, None, "sample/reviews", None, "de")
    assert read("--dataset_name", "some/other") == (None, None, "some/other", None, None)
    assert read("--train_file", "other.csv") == ("other.csv", None, None, None, None)
    assert read("--train_file", "there/mine.csv") == ("there/mine.csv", "test.csv", None, "body", "de")


def test_defaults_that_hang_together(parsed):
    _, training_args = parsed()
    assert training_args.eval_strategy == training_args.save_strategy == "epoch"
    assert training_args.load_best_model_at_end and training_args.eval_on_start
    assert training_args.metric_for_best_model == "auto" and training_args.greater_is_better
    assert training_args.train_sampling_strategy == "group_by_length"
    assert training_args.optim == "adamw_torch_fused" and training_args.max_grad_norm == 1.0
    assert training_args.label_names == ["labels", "example_ids"]
    assert not training_args.push_to_hub and training_args.hub_private_repo
    assert training_args.ddp_timeout == 600
    _, training_args = parsed("--eval_strategy", "steps", "--eval_steps", "7")
    assert (training_args.save_strategy, training_args.save_steps) == ("steps", 7)
    _, training_args = parsed("--eval_strategy", "steps")
    assert training_args.save_steps == training_args.eval_steps == 0.05
    for words in (
        ["--save_strategy", "steps", "--save_steps", "9"],
        ["--eval_strategy", "steps", "--save_steps", "9"],
    ):
        _, training_args = parsed(*words)
        assert training_args.eval_strategy == training_args.save_strategy == "steps"
        assert training_args.eval_steps == training_args.save_steps == 9
    _, training_args = parsed("--save_strategy", "no")
    assert training_args.eval_strategy == "epoch" and not training_args.load_best_model_at_end
    assert parsed("--do_eval", "false")[1].eval_strategy == "no"
    _, training_args = parsed("--eval_strategy=no")
    assert not training_args.load_best_model_at_end and not training_args.eval_on_start
    assert training_args.save_strategy == "epoch"
    _, training_args = parsed("--metric_for_best_model", "log_loss")
    assert not training_args.greater_is_better


def test_precision_follows_the_machine_unless_told(parsed, tmp_path, monkeypatch):
    on_cpu = not torch.accelerator.is_available()
    _, training_args = parsed("--use_cpu")
    assert training_args.bf16 == torch.cpu._is_avx512_bf16_supported()
    for words, expected in ((["--bf16", "false"], False), (["--fp16"], False)):
        _, training_args = parsed("--use_cpu", *words)
        assert training_args.bf16 is expected
    assert training_args.fp16
    words = ["--use_cpu", "--output_dir", str(tmp_path / "other")]
    assert not parse(RecipeArguments, words, defaults={"bf16": False})[1].bf16  # a recipe's own default stays
    if on_cpu:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        assert not parsed()[1].bf16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--learning_rat", "1e-3"],
            "Found the unknown option --learning_rat; expected one that --help lists, such as --learning_rate",
        ),
        (["--learn", "1e-3"], "Found the unknown option --learn"),
        (["--learning_rate", "fast"], "argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        (["--pooling", "first"], "invalid choice: 'first'"),
        (["stray"], "Found the unknown option stray"),
        (["--remove_unused_columns", "true"], "Found --remove_unused_columns; expected it left out"),
        (
            ["--class_weights", "balanced", "--label_smoothing_factor", "0.1"],
            "Found --label_smoothing_factor with --class_weights",
        ),
        (["--batch_eval_metrics"], "Found --batch_eval_metrics; expected it left out"),
        (["--label_names", "labels"], "Found --label_names labels; expected it left out"),
        (["--prediction_loss_only"], "Found --prediction_loss_only; expected it left out"),
        (["--bf16_full_eval"], "Found --bf16_full_eval; expected it left out, since the evaluation after training"),
        (["--fp16_full_eval"], "Found --fp16_full_eval; expected it left out"),
        (["--early_stopping_patience", "-1"], "Found --early_stopping_patience -1; expected 0"),
        (["--max_train_samples", "0"], "Found --max_train_samples 0; expected at least 1"),
        (["--max_samples", "10"], "Found --max_samples without --split"),
        (["--resume_from_checkpoint", "nowhere"], "No checkpoint to resume from in nowhere"),
        (
            ["--resume_from_checkpoint"],
            "No checkpoint to resume from in .*run/checkpoints; expected a folder checkpoint-N",
        ),
        (["--fp16", "--bf16"], "Found --bf16 and --fp16; expected one. Leave one out."),
        (["--max_steps", "0"], "Found --max_steps 0; expected 1 or more"),
        ([""], "Found the unknown option ''; expected one that --help lists"),
        (
            ["--early_stopping_patience", "2", "--eval_strategy", "no"],
            "Found --early_stopping_patience without --eval",
        ),
        (["--pair_truncation", "only_first"], "Found --pair_truncation without --text_pair_column"),
        (["--layer_decay", "1.5"], "Found --layer_decay 1.5; expected"),
    ],
)
def test_a_wrong_command_line_gets_one_line(parsed, words, message):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value).strip()


OWN = {
    "dataset_name": "owner/corpus",
    "dataset_config_name": "plain",
    "text_column": "sentence",
    "language": "en",
    "phrases": True,
    "probes": __file__,
    "split": "8:1:1",
    "max_length": 99,
    "cleaning": ["strip_tags"],
}


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ([], True),
        (["--dataset_name", "owner/corpus"], True),
        (["--dataset_name", "/data/Corpus"], True),  # a local copy
        (["--dataset_name", "data/corpus/"], True),
        (["--dataset_name", "data/plain"], True),  # the configuration's folder
        (["--dataset_name", "other/texts"], False),
        (["--train_file", "corpus.csv"], False),
    ],
)
def test_what_describes_the_data_goes_with_the_data(tmp_path, words, own):
    args, _ = parse(RecipeArguments, [*words, "--output_dir", str(tmp_path)], defaults=OWN)
    names = ("text_column", "language", "phrases", "probes", "split", "dataset_config_name")
    found = {name: getattr(args, name) for name in names}
    assert found == ({name: OWN[name] for name in names} if own else {**dict.fromkeys(names), "phrases": False})
    assert args.max_length == 99 and args.cleaning == ["strip_tags"]  # these are of the recipe
    assert args.dataset_name == (None if "--train_file" in words else (words or ["", OWN["dataset_name"]])[1])
    given = ["--language", "zh", "--text_column", "body", "--phrases"]
    args, _ = parse(RecipeArguments, [*words, *given, "--output_dir", str(tmp_path)], defaults=OWN)
    assert (args.language, args.text_column, args.phrases) == ("zh", "body", True)


def test_defaults_that_name_no_data_describe_those_that_are_given(tmp_path):
    words = ["--train_file", "may.csv", "--output_dir", str(tmp_path)]
    assert parse(RecipeArguments, words, defaults={"text_column": "body", "train_file": None})[0].text_column == "body"


@pytest.mark.parametrize("recipe", ["sst2_finetune", "imdb_finetune", "mrpc_finetune", "chnsenticorp_finetune"])
def test_a_local_copy_of_a_recipes_data_keeps_their_language(recipe, tmp_path):
    recipe = load_recipe(recipe)
    copy = f"/data/{recipe.DEFAULTS['dataset_name'].split('/')[1].lower()}"
    words = ["--dataset_name", copy, "--output_dir", str(tmp_path)]
    args, _ = parse(RecipeArguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    assert args.language == recipe.DEFAULTS["language"] and args.dataset_name == copy
    assert args.text_column == recipe.DEFAULTS.get("text_column")


def test_the_sample_changes_the_data_and_its_rates_come_with_its_encoder(tmp_path):
    recipe = load_recipe("mrpc_finetune")
    options = {"defaults": recipe.DEFAULTS, "sample": recipe.SAMPLE}
    words = ["--sample", "--output_dir", str(tmp_path)]
    args, training_args = parse(RecipeArguments, [*words, "--model_name_or_path", "some/encoder"], **options)
    assert not args.from_scratch and training_args.learning_rate == recipe.DEFAULTS["learning_rate"]
    assert args.pooling == "auto" and args.max_length == recipe.DEFAULTS["max_length"]
    assert training_args.epochs_by_rows and args.dataset_name == recipe.SAMPLE["dataset_name"]
    assert args.dataset_config_name is None
    tiny = recipe.SAMPLE["scratch"]
    for sample, more in ((recipe.SAMPLE, []), (tiny, ["--from_scratch"])):
        own = ["--model_name_or_path", sample["model_name_or_path"]]
        for named in ([], own):
            args, training_args = parse(RecipeArguments, [*words, *more, *named], **options)
            assert args.from_scratch == bool(more) and args.model_name_or_path == sample["model_name_or_path"]
            assert training_args.learning_rate == sample["learning_rate"] and args.pooling == sample.get(
                "pooling", "auto"
            )
    args, training_args = parse(RecipeArguments, [*words, "--from_scratch", *own[:1], "some/encoder"], **options)
    assert args.from_scratch and training_args.learning_rate == recipe.DEFAULTS["learning_rate"]


def test_probes_are_read_before_anything_else(parsed, tmp_path):
    (tmp_path / "probes.txt").write_bytes("Ein schöner Film.\n".encode("latin-1"))
    with pytest.raises(ValueError, match="Found --probes .*probes.txt .*0xf6.*; expected a text file in UTF-8"):
        parsed("--probes", str(tmp_path / "probes.txt"))
    with pytest.raises(ValueError, match="Found --probes nowhere.txt .*No such file"):
        parsed("--probes", "nowhere.txt")


def test_help_lists_the_flags_and_the_docstring(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(RecipeArguments, ["--help"], defaults={}, description="What it\n  does.")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("What it\n  does.\n\nyour data:\n  --train_file ") and "--freeze_layers" in text
    assert "--warmup_steps" in text and "--adam_beta1" not in text and len(text.splitlines()) < 110
    assert "One of random, sequential" not in text and "One of none, balanced. (none)" in text
    listed = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    assert len(listed) == len({*listed}) and {one.name for one in fields(RecipeArguments) if one.init} <= {*listed}
    with pytest.raises(SystemExit):
        parse(RecipeArguments, ["--help_all"], defaults={})
    text = capsys.readouterr().out
    assert {one.name for one in fields(RunArguments)} <= {*re.findall(r"^  --(\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--epochs", "--num_train_epochs"),
        ("--lr=1e-3", "--learning_rate"),
        ("--batch_size", "--per_device_train_batch_size"),
        ("--batch-size", "--per_device_train_batch_size"),
        ("--group_by_length", "--train_sampling_strategy group_by_length"),
        ("--model", "--model_name_or_path"),
        ("--max_len", "--max_length"),
        ("--max_seq_length", "--max_length"),
        ("--warmup_ratio", "--warmup_steps"),
        ("--evaluation_strategy", "--eval_strategy"),
        ("--overwrite_output_dir", "--overwrite_output"),
        ("--no_cuda", "--use_cpu"),
        ("--stride", "--overlap"),
        ("--label", "--label_column"),
        ("--dropout", "--classifier_dropout"),
    ],
)
def test_options_of_other_programs_point_to_what_they_are_here(parsed, theirs, ours):
    message = f"Found the unknown option {theirs}; expected one that --help lists, such as {ours}."
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(theirs)
    assert f"--{ours.split()[0].strip('-')}" in {
        f"--{one.name}" for c in (RecipeArguments, RunArguments) for one in fields(c)
    }


def test_several_gpus_in_one_process(parsed):
    args, training_args = parsed()
    training_args._n_gpu = 2
    with pytest.raises(
        ValueError, match="Found 2 GPUs in one process.*accelerate launch --multi_gpu --num_processes 2"
    ):
        training_args.check()


def test_a_folder_that_is_not_empty_is_kept(parsed, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; expected a new or empty one.*--overwrite_output"):
        parsed()
    (run / "model.safetensors").write_text("old")
    (run / "mine.json").write_text("mine")
    other = tmp_path / "other"  # no run's
    other.mkdir()
    (other / "model.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="model.safetensors, which would be removed, in a folder without a sign"):
        parsed("--overwrite_output", "--output_dir", str(other))
    assert [path.name for path in other.iterdir()] == ["model.safetensors"]
    for sign in ("run.json", "report/metrics.json", ".lock"):
        (tmp_path / sign[-4:] / sign).parent.mkdir(parents=True)
        (tmp_path / sign[-4:] / sign).write_text("{}")
        parsed("--overwrite_output", "--output_dir", str(tmp_path / sign[-4:]))
    (run / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx.data", "pooling.onnx", "config.json"):
        (run / "onnx" / name).write_text("old")
    args, training_args = parsed("--overwrite_output")
    assert (run / "model.safetensors").exists()  # nothing is removed before the data and the model were checked
    clear_output(args.run_dir)
    assert {path.name for path in run.iterdir()} == {"notes.txt", "mine.json", ".lock"}  # an old best cannot win
    (run / "onnx").mkdir()
    (run / "onnx" / "model.onnx").write_text("another's")
    clear_output(args.run_dir)
    assert (run / "onnx" / "model.onnx").exists()
    assert args.run_dir == str(run) and training_args.output_dir == str(run / "checkpoints")


def test_resuming_finds_the_last_checkpoint_and_the_folder(parsed, tmp_path):
    for step in (9, 30):
        (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "complete.json").write_text('{"files": {}}')
    (tmp_path / "run" / "checkpoints" / "checkpoint-40").mkdir()  # cut off while it was written
    _, training_args = parsed("--resume_from_checkpoint")
    assert training_args.resume_from_checkpoint.endswith("checkpoint-30")
    assert not training_args.eval_on_start  # it would count for early stopping
    assert training_args.restore_callback_states_from_checkpoint
    words = ["--resume_from_checkpoint", str(tmp_path / "run" / "checkpoints" / "checkpoint-9")]
    args, training_args = parse(RecipeArguments, words, defaults=DEFAULTS)
    assert args.run_dir == str(tmp_path / "run")
    with pytest.raises(ValueError, match="Found --overwrite_output with --resume_from_checkpoint; expected one"):
        parsed("--resume_from_checkpoint", "--overwrite_output")
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-30" / "complete.json").exists()
    _, training_args = parsed("--resume_from_checkpoint", "false", "--overwrite_output")
    assert training_args.resume_from_checkpoint is None and training_args.eval_on_start
    with pytest.raises(ValueError, match="give --output_dir of the run to resume"):
        parse(RecipeArguments, ["--resume_from_checkpoint"], defaults=DEFAULTS)


def test_without_a_name_the_run_gets_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recipes/sst2_finetune.py"])
    runs = [Path(parse(RecipeArguments, [], defaults=DEFAULTS)[0].run_dir) for _ in range(3)]
    assert len(set(runs)) == 3  # also within a second
    for run in runs:
        assert run.parent == Path("runs") and run.name.startswith("sst2_finetune-20")


def test_a_folder_that_cannot_be_written(parsed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="The output folder .* cannot be written .*; expected a folder of yours"):
        parsed("--output_dir", str(tmp_path / "file" / "run"))


def test_the_hub_token_and_the_push_are_kept_from_trainer(parsed):
    args, training_args = parsed("--push_to_hub", "--hub_token", "hf_dummy")
    assert args.hub == {"repo_id": None, "token": "hf_dummy", "private": True, "revision": None}
    assert "hf_dummy" not in repr(args)
    assert not training_args.push_to_hub and training_args.hub_token is None
    assert "hf_dummy" not in repr(args) + repr(training_args)


def test_threads(parsed, monkeypatch):
    before = torch.get_num_threads()
    try:
        parsed("--use_cpu", "--cpu_threads", "1")
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what accelerate launch sets where nothing was set
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        alone = cores_per_process()
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(alone))
        assert cores_per_process() == 1
        for value in ("3", "3,2"):
            monkeypatch.setenv("OMP_NUM_THREADS", value)
            assert cores_per_process() == 3
    finally:
        torch.set_num_threads(before)


def test_errors_of_input_end_in_one_line_and_others_do_not(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise ValueError("Found a;\n  expected b.")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: Found a; expected b. (BERTCLS_TRACEBACK=1 shows where)\n"
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a defect of ours keeps its traceback")
    monkeypatch.setenv("BERTCLS_TRACEBACK", "1")
    with pytest.raises(ValueError), one_line_errors():
        raise ValueError("shown")


def test_errors_are_metrics_of_which_less_is_better(parsed):
    assert parsed("--metric_for_best_model", "rmse")[1].greater_is_better is False
    assert parsed("--metric_for_best_model", "eval_mae")[1].greater_is_better is False
    assert parsed("--metric_for_best_model", "perplexity")[1].greater_is_better is False
    assert parsed("--metric_for_best_model", "r2")[1].greater_is_better is True


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_metric_knows_its_direction(parsed, schedule):
    words = ["--lr_scheduler_type", schedule]
    assert parsed(*words)[1].lr_scheduler_kwargs == {"mode": "max"}
    assert parsed(*words, "--metric_for_best_model", "log_loss")[1].lr_scheduler_kwargs == {"mode": "min"}
    chosen = '{"mode": "min", "factor": 0.5}'
    assert parsed(*words, "--lr_scheduler_kwargs", chosen)[1].lr_scheduler_kwargs == {"mode": "min", "factor": 0.5}
    assert not parsed()[1].lr_scheduler_kwargs


def test_one_run_a_seed(tmp_path):
    words = ["--seeds", "3", "1", "--output_dir", str(tmp_path), "--learning_rate", "1e-4"]
    runs = list(parse_runs(RecipeArguments, words, defaults={}))
    assert [training_args.seed for _, training_args in runs] == [3, 1]
    assert [args.run_dir for args, _ in runs] == [str(tmp_path / "seed-3"), str(tmp_path / "seed-1")]
    assert all(training_args.learning_rate == 1e-4 for _, training_args in runs)
    (one,) = parse_runs(RecipeArguments, ["--output_dir", str(tmp_path / "one"), "--seed", "7"], defaults={})
    assert one[1].seed == 7 and one[0].run_dir == str(tmp_path / "one")
    with pytest.raises(ValueError, match="Found --seeds with --seed; expected one of them"):
        list(parse_runs(RecipeArguments, [*words, "--seed", "2"], defaults={}))
    again = ["--seeds", "1", "2", "--resume_from_checkpoint"]
    with pytest.raises(ValueError, match="Found --resume_from_checkpoint without a folder; .* Give --output_dir"):
        list(parse_runs(RecipeArguments, again, defaults={}))
    with pytest.raises(ValueError, match="Found --resume_from_checkpoint x with several runs; expected it without"):
        list(parse_runs(RecipeArguments, [*again, "x", "--output_dir", str(tmp_path)], defaults={}))
    with pytest.raises(ValueError, match="Found --seeds 4 -1; expected numbers from 0"):
        next(parse_runs(RecipeArguments, ["--seeds", "4", "-1", "--output_dir", str(tmp_path)], defaults={}))
    (tmp_path / "seed-5").mkdir()
    (tmp_path / "seed-5" / "audit.json").write_text("{}")
    next(parse_runs(RecipeArguments, ["--seeds", "4", "--output_dir", str(tmp_path)], defaults={}))  # more seeds
    with pytest.raises(FileExistsError, match="seed-5 is not empty"):  # before the first one trains
        next(parse_runs(RecipeArguments, ["--seeds", "4", "5", "--output_dir", str(tmp_path)], defaults={}))
    sizes = ["--train_sizes", "1234567", "--output_dir", str(tmp_path / "sizes")]
    assert [args.max_train_samples for args, _ in parse_runs(RecipeArguments, sizes, defaults={})] == [1234567]
    for name, value in {"seeds": [1, 2], "folds": 5, "train_sizes": [0.5]}.items():
        with pytest.raises(ValueError, match=f"Found --{name} here; expected it on the command line"):
            parse(RecipeArguments, words[3:], defaults={name: value})


@pytest.mark.parametrize(
    "defaults, said",
    [
        ({"learning_rte": 1e-3}, "Found learning_rte among .* such as learning_rate"),
        ({"class_weights": "balance"}, "Found class_weights='balance' among .* expected one of none, balanced"),
    ],
)
def test_defaults_of_an_edited_recipe_are_checked(defaults, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        parse(RecipeArguments, ["--output_dir", str(tmp_path / "run")], defaults=defaults)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=said):
        parse(RecipeArguments, ["--sample", "--output_dir", str(tmp_path / "run")], defaults={}, sample=defaults)


def test_epochs_that_are_asked_for_win_over_steps_of_a_recipe(tmp_path):
    words = ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "2"]
    assert parse(RecipeArguments, words, defaults={"max_steps": 5})[1].max_steps == -1


def test_runs_that_are_refused_leave_no_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(args, training_args):
        raise ValueError("no")

    with pytest.raises(SystemExit):
        run_recipe(refuse, RecipeArguments, ["--seeds", "1", "2"], defaults={})
    assert not (tmp_path / "runs").exists()


def test_several_runs_go_where_the_recipe_says_and_only_what_all_rows_trained_is_pushed(tmp_path, monkeypatch):
    named = {"output_dir": str(tmp_path / "named")}
    (one,) = parse_runs(RecipeArguments, ["--seeds", "4"], defaults=named)
    assert one[0].run_dir == str(tmp_path / "named" / "seed-4")
    for option in ("--seeds", "--train_sizes"):
        with pytest.raises(ValueError, match="Found --push_to_hub with several models; push one"):
            list(parse_runs(RecipeArguments, ["--push_to_hub", option, "1"], defaults={}))
    monkeypatch.setattr("bertcls.report.folds.as_folds_chose", lambda folder, folds: [])
    words = ["--push_to_hub", "--folds", "2", "--output_dir", str(tmp_path / "mine")]
    pushed = [args.hub and args.hub["repo_id"] for args, _ in parse_runs(RecipeArguments, words, defaults={})]
    assert pushed == [None, None, "mine"]
