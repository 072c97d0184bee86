import html
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, SAMPLE, TINY, load_recipe, real_path
from helpers import FILES, run_recipe_main
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer, SchedulerType

from bertcls import RecipeArguments, TextClassifier, clean, load_splits
from bertcls.data.labels import label_array
from bertcls.layout import CHECKPOINTS, DRAWN, RUN_FILES
from bertcls.metrics import fit_temperature, log_loss
from bertcls.process import one_line_errors
from bertcls.report.write import describe_report
from bertcls.training.launch import parse

QUICK = ["--max_train_samples", "64", "--num_train_epochs", "2"]


@pytest.fixture(scope="module")
def sample_run(sst2_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "run"
    return folder, run_recipe_main(sst2_recipe, folder, figures=True)


def test_the_sample_learns(sample_run):
    folder, results = sample_run
    rows = len(load_splits(str(SAMPLE))["test"])
    assert results["test_accuracy"] >= 0.5 + 2 * (0.25 / rows) ** 0.5  # two standard errors above the majority share
    assert results["reported_split"] == "test"
    assert results["before_accuracy"] < results["eval_accuracy"]
    assert json.loads((folder / "report" / "metrics.json").read_text())["scores"] == results


@pytest.mark.slow
def test_the_sample_begins_with_a_pretrained_encoder_that_is_worth_it(sst2_recipe, sample_run, tmp_path):
    folder = ROOT / "recipes" / "sample" / "encoder"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8e6
    results = run_recipe_main(sst2_recipe, tmp_path / "run", "--from_scratch", "false")
    assert results["test_accuracy"] > max(0.75, sample_run[1]["test_accuracy"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["pooling"] == "mean"


def test_the_run_leaves_exactly_these_files(sample_run):
    folder, _ = sample_run
    assert {path.name for path in folder.iterdir()} == FILES
    assert len({path.stat().st_mode for path in folder.iterdir() if path.is_file()}) == 1  # who reads one reads all
    assert len(list((folder / "checkpoints").iterdir())) == 2  # the best and the last


def test_report_console_and_metrics_say_what_the_predictions_say(sample_run, sst2_recipe, tmp_path):
    folder, results = sample_run
    table = pd.read_parquet(folder / "report" / "predictions.parquet")
    facts = json.loads((folder / "report" / "metrics.json").read_text())
    accuracy = accuracy_score(table["label"], table["prediction"])
    macro = f1_score(table["label"], table["prediction"], average="macro")
    assert facts["scores"]["test_accuracy"] == results["test_accuracy"] == accuracy
    assert facts["scores"]["test_f1_macro"] == pytest.approx(macro)
    console = describe_report(facts, run_dir=str(folder), texts=["It's 5 $ \n" + "so " * 40])
    assert f"test accuracy {accuracy:.2f} (95 % interval" in console and f"F1 macro {macro:.2f}" in console
    (code,) = shlex.split(console.splitlines()[-1])[2:]
    assert "predict(\"It's 5 $ so so" in code and len(code) < len(str(folder)) + 170 and "…" in code
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert f">{accuracy:.2f}<" in page and facts["headline"] in html.unescape(page)
    assert re.search(
        rf'id="about">{folder.name} · reviews · {len(table)} rows of test · 20\d\d-\d\d-\d\d .* UTC<', page
    )
    wrong = table[table["label"] != table["prediction"]]
    assert sum(pair["rows"] for pair in facts["confusions"]) == len(wrong)
    assert sum(row["rows"] for row in facts["calibration"]["bins"]) == len(table)
    for name in {row["slice"] for row in facts["slices"]}:
        rows = [row for row in facts["slices"] if row["slice"] == name]
        assert sum(row["rows"] for row in rows) == len(table)
        assert sum(row["rows"] * row["score"] for row in rows) == pytest.approx(accuracy * len(table))
    shown = [error["example_id"] for error in facts["errors"]]
    sure = wrong[["probability_negative", "probability_positive"]].max(axis=1)
    assert shown == wrong.loc[sure.sort_values(ascending=False, kind="stable").index, "example_id"].tolist()[:20]
    assert len(facts["probes"]) >= 3 and facts["probes"][0]["text"] == "I LOVE YOU but you dnt love me"
    answer = TextClassifier.from_pretrained(str(folder)).predict(facts["probes"][0]["text"])[0]
    assert (facts["probes"][0]["prediction"], facts["probes"][0]["probability"]) == (
        answer.label,
        pytest.approx(answer.score, abs=1e-5),
    )
    tfidf = next(row for row in facts["baselines"] if row["name"].startswith("TF-IDF"))
    words = ["--sample", "--output_dir", str(tmp_path / "tfidf")]
    recipe = load_recipe("tfidf_baseline")
    alone = recipe.main(*parse(recipe.Arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE))
    assert tfidf["score"] == pytest.approx(alone["test_accuracy"], abs=0.011)  # cleaned as the encoder's texts are
    worse = [row for row in facts["baselines"] if row["outcome"] == "worse"]
    assert facts["headline"].startswith("Warning: the encoder") is bool(worse)


def test_the_temperature_is_fitted_and_changes_no_answer(sample_run):
    folder, _ = sample_run
    classifier = TextClassifier.from_pretrained(str(folder))
    temperature = classifier.model.config.temperature
    facts = json.loads((folder / "report" / "metrics.json").read_text())
    assert temperature != 1.0 and facts["calibration"]["temperature"] == temperature
    validation = load_splits(str(SAMPLE))["validation"]
    logits, labels = classifier.logits(validation["text"][:]), label_array(validation)
    assert temperature == pytest.approx(fit_temperature(logits, labels), abs=1e-3)
    assert log_loss(logits / temperature, labels) < log_loss(logits, labels)
    table = pd.read_parquet(folder / "report" / "predictions.parquet")
    raw = classifier.logits(table["text"].tolist()).argmax(-1)
    assert [classifier.label_names[number] for number in raw] == table["prediction"].tolist()


def test_the_record_says_how_the_run_was_made(sample_run):
    folder, results = sample_run
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == sys.argv and record["seed"] == 42 and record["processes"] == 1
    assert record["versions"]["torch"] == version("torch")
    assert record["train_seconds"] == results["train_runtime"] <= record["wall_seconds"]
    examples, tokens = record["train_examples_per_second"], record["train_tokens_per_second"]
    assert examples == pytest.approx(results["train_samples_per_second"], rel=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = load_splits(str(SAMPLE))["train"]["text"][:]
    mean_length = sum(map(len, tokenizer([clean(text, []) for text in texts])["input_ids"])) / len(texts)
    assert tokens / examples == pytest.approx(mean_length, rel=0.05)  # cleaning takes out a little
    assert 0.1 < record["peak_memory_gib"]["process"] < 24
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert record["git_commit"] is None or record["git_commit"].startswith(commit.strip())


def test_no_saved_file_holds_a_local_path(sample_run):
    folder, _ = sample_run
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "run.json"]  # which is not pushed
    assert len(files) == len(FILES) - 3
    for path in files:
        for secret in (str(folder.parent), str(ROOT), str(Path.home())):
            assert secret.encode() not in path.read_bytes(), path.name


def test_scores_come_from_the_predictions_file_and_the_saved_model(sample_run):
    folder, results = sample_run
    table = pd.read_parquet(folder / "report" / "predictions.parquet")
    assert accuracy_score(table["label"], table["prediction"]) == results["test_accuracy"]
    test = load_splits(str(SAMPLE))["test"]
    assert table["text"].tolist() == test["text"][:]
    assert table["example_id"].tolist() == test["example_id"][:]
    predictions = TextClassifier.from_pretrained(str(folder)).predict(test["text"][:])
    assert [p.label for p in predictions] == table["prediction"].tolist()
    assert [p.probabilities["positive"] for p in predictions] == pytest.approx(table["probability_positive"], abs=1e-5)
    counts = results["test_confusion_matrix"]
    assert counts == pd.crosstab(table["label"], table["prediction"]).to_numpy().tolist()


def test_the_best_model_is_saved_and_not_the_last(sample_run):
    folder, results = sample_run
    last = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_calibrated_loss"] for entry in history if "eval_loss" in entry and entry["step"] > 0]
    assert results["eval_calibrated_loss"] == min(losses)  # 126 rows are too few to choose by their accuracy
    assert history[0]["step"] == 0 and history[0]["eval_accuracy"] == results["before_accuracy"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(sst2_recipe, tmp_path):
    first, second, other = (
        run_recipe_main(sst2_recipe, tmp_path / name, *QUICK, "--seed", seed)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first["eval_log_loss"] == second["eval_log_loss"] != other["eval_log_loss"]
    assert first["train_samples"] == 64
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.fixture
def trainers(sst2_recipe, monkeypatch) -> list:
    """The trainers that the recipe makes, so that a test can look at the effect of an option."""
    made = []

    class Kept(sst2_recipe.Trainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            made.append(self)

    monkeypatch.setattr(sst2_recipe, "Trainer", Kept)
    return made


def trains(trainer) -> set[str]:
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


def rates(trainer) -> set[float]:
    return {group["initial_lr"] for group in trainer.optimizer.param_groups}


def windows(trainer) -> int:
    return max(map(len, trainer.train_dataset["input_ids"][:]))


OPTIONS = {
    "--freeze_encoder": lambda t: trains(t) == {"classifier.weight", "classifier.bias"},
    "--freeze_layers 1 --layer_decay 0.5 --head_learning_rate 1e-2": lambda t: (
        rates(t) == {1e-2, 5e-4} and not any("embeddings" in name or "layer.0." in name for name in trains(t))
    ),
    "--class_weights balanced --gradient_accumulation_steps 2": lambda t: (
        t.model.config.class_weights == [1.0, 1.0] and t.state.global_step == 2
    ),
    "--label_smoothing_factor 0.1 --train_sampling_strategy batch_rebalance": lambda t: t.label_smoother is not None,
    "--eval_strategy steps --eval_steps 2 --metric_for_best_model log_loss": lambda t: (
        [e["step"] for e in t.state.log_history if "eval_loss" in e] == [0, 2, 4, 4]
        and t.state.best_metric
        == min(e["eval_log_loss"] for e in t.state.log_history if e.get("step") and "eval_loss" in e)
    ),
    "--eval_strategy no --early_stopping_patience 0": lambda t: t.state.best_model_checkpoint is None,
    "--save_strategy no --early_stopping_patience 1": lambda t: (
        not list(Path(t.args.output_dir).glob("*")) and t.state.stateful_callbacks["EarlyStoppingCallback"]
    ),
    "--bf16 false --optim adafactor --lr_scheduler_type cosine --max_grad_norm 0.5": lambda t: (
        type(t.optimizer.optimizer).__name__ == "Adafactor" and t.accelerator.mixed_precision == "no"
    ),
    "--lr_scheduler_type reduce_lr_on_plateau --activation_checkpointing --dataloader_num_workers 1": lambda t: (
        type(t.lr_scheduler).__name__ == "ReduceLROnPlateau"
        and t.lr_scheduler.mode == "min"  # the calibrated loss chooses
        and t.model.encoder.encoder.layer[0].gradient_checkpointing
    ),
    "--pooling cls --classifier_hidden_size 16 --classifier_dropout 0.3 --window_pooling mean_probs": lambda t: (
        t.model.config.pooling == "cls" and t.model.dense.out_features == 16 and t.model.dropout.p == 0.3
    ),
    "--max_length 12 --overlap 3 --max_train_windows 1 --window_pooling vote": lambda t: (
        windows(t) > 1 and max(t.train_dataset["length"][:]) == 12
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_options_have_their_effect(sst2_recipe, tmp_path, trainers, options):
    results = run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, *options.split())
    assert 0 < results["test_accuracy"] < 1
    assert OPTIONS[options](trainers[0])
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


@pytest.mark.slow
def test_frozen_weights_stay(sst2_recipe, tmp_path, trainers, encoder_folder):
    words = ["--model_name_or_path", encoder_folder, "--pooling", "mean", "--freeze_layers", "1"]
    words += ["--learning_rate", "1e-3"]
    words += ["--head_init", "random"]  # else the start, a random encoder, may be the best model
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, *words)
    start, end = load_file(f"{encoder_folder}/model.safetensors"), trainers[0].model.encoder.state_dict()
    changed = {key for key in end if not torch.equal(end[key], start[key])}
    assert changed and all("layer.1." in key for key in changed)


@pytest.mark.parametrize(
    "schedule", [s.value for s in SchedulerType if s.value not in ("warmup_stable_decay", "greedy")]
)
def test_every_schedule_of_trainer_can_be_named(schedule, tmp_path):
    words = ["--lr_scheduler_type", schedule, "--output_dir", str(tmp_path)]
    words += ["--lr_scheduler_kwargs", '{"min_lr": 1e-6}'] if "min_lr" in schedule else []
    assert parse(RecipeArguments, words, defaults={})[1].lr_scheduler_type == schedule


@pytest.mark.slow
def test_push_to_hub_pushes_the_verified_folder_once(sst2_recipe, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        "bertcls.training.finish.push_folder", lambda *args, **kwargs: pushed.append((args, kwargs)) or "address"
    )
    words = ["--push_to_hub", "--hub_model_id", "someone/model", "--hub_token", "hf_dummytoken"]
    run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, *words)
    settings = {"repo_id": "someone/model", "token": "hf_dummytoken", "private": True, "revision": None}
    assert pushed == [((str(tmp_path / "run"),), settings)]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert b"hf_dummytoken" not in path.read_bytes(), path


def test_overwriting_knows_every_file_of_a_run():
    assert {*RUN_FILES, CHECKPOINTS, "audit.json", "report", ".lock"} == FILES


@pytest.mark.slow
def test_overwriting_leaves_one_run(sst2_recipe, tmp_path):
    first = run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--num_train_epochs", "4", "--seed", "1")
    with pytest.raises(FileExistsError):
        run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK)
    second = run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, "--seed", "2", "--overwrite_output")
    assert json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())["scores"] == second != first
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == [2, 4]


@pytest.mark.slow
def test_early_stopping_stops(sst2_recipe, tmp_path):
    words = ["--early_stopping_patience", "1", "--learning_rate", "1e-12", "--num_train_epochs", "6"]
    results = run_recipe_main(sst2_recipe, tmp_path / "run", *QUICK, *words)
    assert results["epoch"] == 2.0  # the first epoch sets the mark, the second does not beat it


@pytest.mark.slow
def test_the_lab_protocol_reports_its_own_test_part(sst2_recipe, tmp_path):
    results = run_recipe_main(
        sst2_recipe, tmp_path / "run", "--split", "8:1:1", "--max_samples", "500", "--num_train_epochs", "1"
    )
    assert results["reported_split"] == DRAWN
    assert results["train_samples"] == 400
    assert sum(row["support"] for row in results["test_per_class"].values()) == 50


@pytest.mark.slow
def test_without_a_labelled_test_split_validation_is_reported(sst2_recipe, tmp_path, encoder_folder):
    data = tmp_path / "data"
    data.mkdir()
    splits = load_splits(str(SAMPLE))
    for name in ("train", "validation"):
        splits[name].remove_columns("example_id").rename_column("text", "sentence").to_parquet(
            data / f"{name}.parquet"
        )
    words = ["--dataset_name", str(data), "--model_name_or_path", encoder_folder, *QUICK]
    results = run_recipe_main(sst2_recipe, tmp_path / "run", *words, sample=False)
    assert results["reported_split"] == "validation"
    table = pd.read_parquet(tmp_path / "run" / "report" / "predictions.parquet")
    assert table["text"].tolist() == splits["validation"]["text"][:]


def bad_folder(folder: Path, rows: str) -> str:
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(rows)
    return str(folder)


BAD = {
    "unknown column": (
        ["--text_column", "body"],
        "Found the columns sentence, label, kind in the data; expected body",
    ),
    "missing data": (
        ["--dataset_name", "./nowhere"],
        "No data set found at './nowhere'; expected a Hub id, a file",
    ),
    "missing model": (["--model_name_or_path", "./nowhere"], "found at './nowhere'; expected a Hub id or a folder"),
    "model without weights": (
        ["--from_scratch", "false", "--model_name_or_path", str(TINY)],
        "but no weights; expected model.safetensors",
    ),
    "max_length": (["--max_length", "129"], "Found --max_length 129; the encoder takes at most 128 tokens"),
    "overlap": (["--overlap", "62"], "Found --overlap 62 with --max_length 64; expected 0 to 61"),
    "option": (
        ["--max_lenght", "12"],
        "Found the unknown option --max_lenght; expected one that --help lists, such as",
    ),
    "metric": (["--metric_for_best_model", "f1"], "Found --metric_for_best_model f1; expected one of"),
    "layers": (["--freeze_layers", "3"], "Found --freeze_layers 3; expected 0 to 2"),
    "split": (["--split", "8:2"], "Found --split '8:2'; expected three positive shares"),
    "unlabelled": (
        "data",
        '{"sentence": "x", "label": "-1"}\n{"sentence": "y", "label": "a"}\n{"sentence": "z", "label": "b"}',
        "Found 1 rows without a text or label",
    ),
    "not a string": (
        "data",
        '{"sentence": 5, "label": "a"}\n{"sentence": 6, "label": "b"}',
        "holds int64, expected strings",
    ),
    "empty": ("data", "", "train.jsonl is empty; expected at least one row"),
    "output": ("output", "", "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_before_training(case, sst2_recipe, tmp_path, capsys):
    kind, *rest = BAD[case]
    words, message = kind, rest[-1]
    folder = tmp_path / "run"
    if kind == "data":
        words = ["--dataset_name", bad_folder(tmp_path / "data", rest[0])]
    elif kind == "output":
        (tmp_path / "file").touch()
        words, folder = [], tmp_path / "file" / "run"
    with pytest.raises(SystemExit) as caught, one_line_errors():
        run_recipe_main(sst2_recipe, folder, *words)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (folder / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "code"), [([sys.executable], 2), (["accelerate", "launch", "--quiet"], 1)])
def test_a_wrong_command_line_ends_the_process_with_one_line(launcher, code, tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*launcher, str(ROOT / "recipes" / "sst2_finetune.py"), "--sample", "--text_column", "body"]
    options = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path}
    done = subprocess.run(command, **options)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Found the columns sentence, label, kind")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_accelerate_launch_and_loader_workers_change_no_weight(tmp_path, sst2_recipe):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "check": True, "env": environment}
    command = [
        "accelerate",
        "launch",
        str(ROOT / "recipes" / "sst2_finetune.py"),
        "--sample",
        "--from_scratch",
        *QUICK,
    ]
    done = subprocess.run([*command, "--output_dir", "run"], **options)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    hint = done.stdout.split("Use it:\n")[1].strip()  # the printed command runs as it stands
    answer = subprocess.run(hint, shell=True, **options)
    assert answer.stdout.startswith("[Prediction(label='")
    run_recipe_main(sst2_recipe, tmp_path / "python", *QUICK, "--dataloader_num_workers", "2")
    launched, here = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "python"))
    assert all(torch.equal(tensor, launched[name]) for name, tensor in here.items())


@pytest.mark.slow
def test_trackers_get_losses_and_scores_and_the_card_its_language(sst2_recipe, tmp_path):
    words = [
        "--sample",
        "--from_scratch",
        "--max_train_samples",
        "64",
        "--num_train_epochs",
        "1",
        "--figures",
        "false",
    ]
    words += ["--per_device_train_batch_size", "16", "--report_to", "tensorboard", "--license", "mit"]
    words += ["--output_dir", str(tmp_path / "run")]
    options = {"defaults": sst2_recipe.DEFAULTS, "sample": sst2_recipe.SAMPLE}
    sst2_recipe.main(*parse(RecipeArguments, words, **options))
    (events,) = (tmp_path / "run" / "checkpoints" / "runs").iterdir()
    written = EventAccumulator(str(events)).Reload()
    assert {"train/loss", "eval/accuracy", "eval/log_loss"} <= set(written.Tags()["scalars"])
    assert written.Scalars("eval/accuracy")[-1].step == 4  # of 16 rows each
    card = ModelCard.load(tmp_path / "run" / "README.md").data
    assert (card.language, card.license) == ("en", "mit")
    words[-1] += "-other"
    words += ["--dataset_name", str(SAMPLE.parent / "long")]
    assert parse(RecipeArguments, words, **options)[0].language is None


@pytest.mark.real
def test_minilm_learns_from_a_thousand_rows(sst2_recipe, tmp_path):
    data, model = real_path("BERTCLS_DATA") + "/sst2", real_path("BERTCLS_MODEL")
    words = ["--dataset_name", data, "--model_name_or_path", model, "--max_train_samples", "1000"]
    results = run_recipe_main(
        sst2_recipe, tmp_path / "run", *words, "--num_train_epochs", "2", "--seed", "1", sample=False
    )
    assert results["reported_split"] == "validation"
    assert [row["support"] for row in results["test_per_class"].values()] == [428, 444]
    assert results["test_accuracy"] > 0.74


@pytest.mark.real
def test_a_sentence_encoder_pools_as_it_says():
    from bertcls import BertClsForSequenceClassification

    model = BertClsForSequenceClassification.from_encoder(real_path("BERTCLS_MODEL"), num_labels=2)
    assert model.config.pooling == "mean" and model.config.normalize
    model = BertClsForSequenceClassification.from_encoder(real_path("BERTCLS_MODEL"), num_labels=2, pooling="pooler")
    assert model.config.pooling == "pooler" and not model.config.normalize
