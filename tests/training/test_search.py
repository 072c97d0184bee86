"""A search over the knobs of a recipe: ranges, a study that outlives a kill, and what it says of its choice."""

import builtins
import json
import os
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load_recipe
from datasets import ClassLabel, Dataset, DatasetDict
from helpers import run_recipe_main
from transformers import TrainerState

from bertcls import RecipeArguments, arrange_splits
from bertcls.layout import CARD, STUDY
from bertcls.modeling import REGRESSION, SINGLE_LABEL
from bertcls.report.compare import Arm, describe_choice
from bertcls.report.figures import draw_search
from bertcls.training.launch import parse
from bertcls.training.search import Watch, as_words, make_knobs
from bertcls.training.study import Study

SST2 = str(ROOT / "recipes" / "sst2_finetune.py")
PLAN = {
    "rows": {"train": 8000, "validation": 1000},
    "parameters": 1e8,
    "kind": SINGLE_LABEL,
    "trains_encoder": True,
    "layered": True,
    "can_probe": True,
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 32,
    "pooling": "pooler",
    "contrastive_steps": 0,
    "classifier_dropout": 0.1,
}


def search(*words):
    program = load_recipe("search")
    return program.main(*program.read([*map(str, words)]))


def knobs_of(*given: str, **changed) -> dict:
    return make_knobs(PLAN | changed, RecipeArguments(), {*given})


def test_knobs_follow_from_the_encoder_and_the_rows():
    knobs = knobs_of()
    defaults = {name: default for name, (default, _) in knobs.items()}
    assert defaults == {
        "learning_rate": 5e-5,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 32,
        "pooling": "pooler",
        "classifier_dropout": 0.1,
        "head_init": "probe",
        "layer_decay": 1.0,
        "contrastive_steps": 0,
    }
    for name, (default, values) in knobs.items():
        assert values._contains(values.to_internal_repr(default)), name
    rate, small = knobs["learning_rate"][1], knobs_of(parameters=1e6)["learning_rate"][1]
    assert (rate.low, rate.high) == pytest.approx((5e-6, 1e-4)) and small.high == pytest.approx(1e-3)
    assert knobs_of(parameters=1e6, learning_rate=1e-2)["learning_rate"][1].high == 1e-2  # the default is in it
    assert (knobs["num_train_epochs"][1].low, knobs["num_train_epochs"][1].high) == (1, 6)
    few = knobs_of(rows={"train": 100}, num_train_epochs=0.0, contrastive_steps=60)
    assert few["per_device_train_batch_size"][1].choices == (8, 32) and few["num_train_epochs"][1].high == 10
    assert few["contrastive_steps"][1].high == 120 and "head_init" not in few


def test_what_is_given_or_does_nothing_is_no_knob():
    assert {*knobs_of()} - {*knobs_of("pooling", "learning_rate")} == {"pooling", "learning_rate"}
    assert "num_train_epochs" not in knobs_of("max_steps")
    assert "contrastive_steps" not in knobs_of(kind=REGRESSION)
    assert {"contrastive_steps", "layer_decay"}.isdisjoint(knobs_of(trains_encoder=False))
    assert "head_init" not in knobs_of(can_probe=False)
    assert "layer_decay" not in knobs_of(layered=False)  # ALBERT


def test_the_rates_of_adapters_are_theirs():
    knobs = make_knobs(PLAN | {"learning_rate": 1e-3}, RecipeArguments(lora_rank=8), set())
    low, high = (getattr(knobs["learning_rate"][1], end) for end in ("low", "high"))
    assert low == pytest.approx(2.5e-4) and high == pytest.approx(5e-3)


def test_early_stopping_of_a_trial_begins_with_the_start():
    for last, best in ((False, 0.76), (True, None)):  # less a standard error
        watch, state, model = Watch("accuracy", last=last), TrainerState(), SimpleNamespace(linear_start=1)
        watch.on_train_begin(None, state, None)
        rows = SimpleNamespace(dataset=range(100))
        watch.on_evaluate(None, state, None, metrics={"eval_accuracy": 0.8}, model=model, eval_dataloader=rows)
        watch.on_epoch_begin(None, state, None)
        assert state.best_metric == (best and pytest.approx(best))
        assert last or watch.scores["eval_accuracy"] == 0.8
    watch, state = Watch("accuracy"), TrainerState()
    watch.on_train_begin(None, state, None)
    for step, score in enumerate((0.8, 0.75, 0.77, 0.765)):
        state.global_step = step
        watch.on_evaluate(None, state, None, metrics={"eval_accuracy": score}, model=model, eval_dataloader=rows)
    assert watch.scores["eval_accuracy"] == 0.77  # the first no worse than the start beyond noise, until a better one


def study_of(folder, **changed) -> Study:
    made_of = {"options": ["--pooling", "mean"], "folds": 0} | changed
    knobs = {name: both for name, both in knobs_of().items() if name in ("learning_rate", "pooling")}
    return Study(folder, made_of, knobs, greater_is_better=True, seed=1)


def tried(study: Study, trials: int) -> list[dict]:
    """Makes trials whose score follows from their rate."""
    found = []
    while (drawn := study.ask(trials, None)) is not None:
        found.append(drawn)
        study.tell(6.0, drawn.get("learning_rate", 5e-5), {"eval_accuracy": 0.5})
    return found


@pytest.mark.slow
def test_a_study_goes_on_as_it_would_have_gone(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = tried(study_of(tmp_path / "whole"), 10)
    assert whole[0] == {} and len({*map(str, whole)}) == 10  # the defaults first
    assert study_of(tmp_path / "killed").ask(10, None) == {}  # and killed before it ended
    assert tried(study_of(tmp_path / "killed"), 3) == whole[:3]
    assert study_of(tmp_path / "killed").ask(10, None) == whole[3]  # killed again
    assert tried(study_of(tmp_path / "killed"), 10) == whole[3:]
    found = study_of(tmp_path / "killed").found()
    assert len(found["trials"]) == 10 and found["defaults"]["score"] == 5e-5
    assert found["best"]["knobs"] == max(whole[1:], key=lambda drawn: drawn["learning_rate"])
    assert {*found["importance"]} == {"learning_rate", "pooling"} and sum(found["importance"].values()) > 0.999
    assert found["importance"]["learning_rate"] > 0.5
    assert study_of(tmp_path / "killed").ask(None, 1.0) is None  # 10 times 6 seconds
    assert study_of(tmp_path / "killed").ask(None, 1.01) is not None
    with pytest.raises(ValueError, match=r"Found a search in .* with folds 0, and not 5; expected the same"):
        study_of(tmp_path / "killed", folds=5)
    draw_search(found["trials"], found["importance"], "accuracy", tmp_path / "a.png", rising=True)
    draw_search(found["trials"][:1], {}, "log_loss", tmp_path / "b.png", rising=False)
    assert (tmp_path / "a.png").stat().st_size > (tmp_path / "b.png").stat().st_size > 5000


def test_a_trial_is_cut_short_where_others_did_better(tmp_path):
    study = study_of(tmp_path)
    for score in (0.9, 0.8, 0.85, 0.9):
        study.ask(None, None)
        assert study.keep_going(score, 1) and study.keep_going(score, 2)
        study.tell(1.0, score, {})
    study.ask(None, None)
    assert not study.keep_going(0.7, 1)
    assert "cut short" in study.tell(1.0, 0.7, {}, pruned=True)
    study.ask(None, None)
    assert "failed" in study.tell(1.0, None)
    states = [trial["state"] for trial in study.found()["trials"]]
    assert states == ["complete"] * 4 + ["pruned", "fail"]


def test_a_trial_that_is_always_cut_off_is_left_behind(tmp_path):
    assert tried(study_of(tmp_path), 1) == [{}]
    drawn = [study_of(tmp_path).ask(3, None) for _ in range(4)]  # each time killed
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
    assert tried(study_of(tmp_path), 2) == drawn[3:]


def test_what_choosing_the_best_brings_is_told_by_what_chose():
    def arm(name: str, **scores) -> Arm:
        facts = [
            {"scores": {f"{part}_{key}": value for part, value in zip(("eval", "test"), both)}}
            for key, both in scores.items()
        ]
        return Arm(name, facts, [], [], {}, pd.DataFrame(), np.zeros((1, 1)))

    first, best = arm("the defaults", slips=(5.0, 6.0)), arm("trial 3", slips=(4.5, 5.5))
    told = {"greater_is_better": False, "trials": 9, "folds": 0}
    choice = describe_choice(({"eval_slips": 5.0}, first), ({"eval_slips": 3.0}, best), "slips", **told)
    assert choice["flattered"] == pytest.approx(1.5)  # it looked 2 better, and is half of one better
    assert "flattered it by 1.5000" in choice["said"] and "Trained anew it has 4.5000 on the rows" in choice["said"]


def test_folds_to_choose_by_leave_the_reported_rows_alone():
    texts = [f"text {row} of some" for row in range(60)]
    rows = Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(60)], "example_id": range(60)})
    splits = DatasetDict(train=rows.cast_column("label", ClassLabel(names=["x", "y"])))
    reported = arrange_splits(splits)[0]["test"]["example_id"][:]
    held = []
    for number in (1, 2, 3):
        parts, name = arrange_splits(splits, fold=f"validation-{number}/3")
        assert parts["test"]["example_id"][:] == reported and name == arrange_splits(splits)[1]
        ids = [parts[part]["example_id"][:] for part in ("train", "validation", "test")]
        assert sorted(sum(ids, [])) == [*range(60)]
        assert np.bincount(parts["validation"]["label"]).tolist() == [9, 9]
        held += ids[1]
    assert sorted(held + reported) == [*range(60)]


@pytest.mark.parametrize(
    "words, message",
    [
        (["no.py"], "No recipe found at no.py; expected one such as recipes/sst2_finetune.py"),
        ([ROOT / "recipes" / "imdb_mlm_pretrain.py"], "without DEFAULTS and main.* of fine-tuning; expected a recipe"),
        ([ROOT / "recipes" / "tfidf_baseline.py", "--sample"], "Found a recipe that ended without telling its score"),
        ([ROOT / "recipes" / "distill.py", "--sample"], "whose students have a teacher; expected a recipe of labels"),
        ([SST2, "--no_report"], "Found --no_report with a search; expected it left out"),
        ([ROOT / "recipes" / "predict.py"], "without DEFAULTS and main.* of fine-tuning; expected a recipe"),
        ([SST2, "--trials", "0"], "Found --trials 0; expected 1 or more"),
        ([SST2, "--minutes", "0"], "Found --minutes 0; expected more than 0"),
        ([SST2, "--folds", "1"], "Found --folds 1; expected 2 or more"),
        ([SST2, "--report", "false"], "Found --report with a search; expected it left out"),
        ([SST2, "--sample", "--lora", "8"], "Found the unknown option --lora; expected one that --help lists"),
        ([SST2, "--sample", "--metric_for_best_model", "mcc"], "Found --metric_for_best_model mcc; expected one of"),
        ([SST2, "--sample", "--knobs", "rank"], "Found --knobs rank, .* expected some of learning_rate"),
        ([SST2, "--sample", "--pooling=cls", "--knobs", "pooling"], "Found --knobs pooling, which is given"),
        ([SST2, "--sample", "--eval-strategy", "no"], "Found no score to choose by; expected rows for it"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(words, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        search(*words, "--output_dir", tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_without_rows_to_choose_by_and_without_folds_nothing_is_searched(tmp_path):
    (tmp_path / "few.csv").write_text("text,label\n" + "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(60)))
    words = [ROOT / "recipes" / "csv_finetune.py", "--train_file", tmp_path / "few.csv", "--folds", "0"]
    with pytest.raises(ValueError, match="Found no score to choose by; expected rows for it"):
        search(
            *words,
            "--model_name_or_path",
            ROOT / "recipes" / "sample" / "encoder",
            "--output_dir",
            tmp_path / "search",
        )
    assert not (tmp_path / "search").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / CARD).write_text("a model")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty, and holds no search; expected a new one"):
        search(SST2, "--sample", "--output_dir", tmp_path)
    assert (tmp_path / CARD).read_text() == "a model" and (tmp_path / "trial" / "notes.txt").read_text() == "mine"


def test_without_optuna_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError("No module named 'optuna'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="A search needs optuna, which is not installed. Install it: pip install opt"):
        search(SST2, "--sample", "--output_dir", tmp_path / "search")


QUICK = [
    "--sample",
    "--from_scratch",
    "--num_train_epochs",
    "2",
    "--figures",
    "false",
    "--probes",
    str(ROOT / "recipes" / "probes.txt"),
]


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill_and_compares_its_best_with_the_defaults(tmp_path, sst2_recipe):
    source = (
        (ROOT / "recipes" / "sst2_finetune.py").read_text().replace("HERE = Path(__file__)", f"HERE = Path({SST2!r})")
    )
    killed = "    if Path('kill').exists() and args.watch.metric:\n        raise KeyboardInterrupt\n\n    # 5. "
    assert source.count("learning_rate=1e-3") == 1
    source = source.replace("learning_rate=1e-3", "learning_rate=1e-6")  # which others beat
    (tmp_path / "copy.py").write_text(source.replace("    # 5. ", killed))
    words = [tmp_path / "copy.py", *QUICK, "--folds", "0", "--knobs", "learning_rate", "pooling", "--output_dir"]
    words += [tmp_path / "search", "--seeds", "1", "--trials"]
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        search(*words, "1")
        shutil.rmtree(tmp_path / "search" / "final")
        (tmp_path / "kill").touch()
        with pytest.raises(KeyboardInterrupt):
            search(*words, "3")
        (tmp_path / "kill").unlink()
        facts = search(*words, "3")
    finally:
        os.chdir(before)
    folder = tmp_path / "search"
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "final",
        "search.json",
        "search.png",
        "trials.log",
        STUDY,
    }
    assert [trial["number"] for trial in facts["trials"]] == [0, 2, 3]  # the killed one was tried again
    log = (folder / "trials.log").read_text()
    assert log.count("epoch  train loss") == 3 and "test accuracy" not in log and "The model is in" not in log
    plain = run_recipe_main(
        sst2_recipe, tmp_path / "plain", *QUICK[1:], "--report", "false", "--learning_rate", "1e-6"
    )
    for name in ("eval_accuracy", "eval_calibrated_loss"):  # of the same run
        assert facts["defaults"]["scores"][name] == pytest.approx(plain[name], abs=1e-5)

    saved = json.loads((folder / "search.json").read_text())
    assert saved["verdict"] == facts["verdict"] and saved["choice"]["metric"] in ("accuracy", "calibrated_loss")
    command = shlex.split(saved["command"])
    assert command[:4] == ["accelerate", "launch", "--quiet", str(tmp_path / "copy.py")]
    assert command[-2:] == ["--seeds", "1"]
    args, training_args = parse(
        RecipeArguments,
        [*command[4:-2], "--output_dir", str(tmp_path / "best")],
        defaults=sst2_recipe.DEFAULTS,
        sample=sst2_recipe.SAMPLE,
    )
    best = saved["best"]["knobs"]
    assert not saved["best"]["defaults"] and saved["best"]["score"] < saved["defaults"]["score"]
    assert training_args.learning_rate == pytest.approx(best["learning_rate"], rel=5e-3)
    assert args.pooling == best["pooling"] and saved["choice"]["said"].startswith(f"Trial {saved['best']['number']}")
    (first, chose), (seen, unseen) = saved["choice"]["chose"], saved["choice"]["unseen"]
    assert saved["choice"]["flattered"] == pytest.approx((chose - unseen) - (first - seen))
    runs = {path.parents[2].name for path in (folder / "final").glob("*/*/report/predictions.parquet")}
    assert runs == {f"trial-{row['number']}" for row in (saved["defaults"], saved["best"])}


@pytest.mark.slow
def test_folds_judge_trials_where_rows_are_few(tmp_path):
    words = [SST2, *QUICK, "--max_train_samples", "60", "--knobs", "learning_rate", "--trials", "2", "--seeds", "1"]
    with pytest.raises(ValueError, match="Found --folds with --phrases"):
        search(*words, "--folds", "2", "--output_dir", tmp_path / "phrases")
    facts = search(*words, "--folds", "2", "--phrases", "false", "--output_dir", tmp_path / "search")
    assert [trial["state"] for trial in facts["trials"]] == ["complete"] * 2
    log = (tmp_path / "search" / "trials.log").read_text()
    assert log.count("rows: train 60") == 4


@pytest.mark.slow
def test_two_processes_make_the_same_trials(tmp_path):
    words = [*QUICK, "--folds", "0", "--knobs", "learning_rate", "pooling", "--trials", "2", "--seeds", "1"]
    words += ["--output_dir", str(tmp_path / "search")]
    config = ROOT / "recipes" / "accelerate_configs" / "cpu_2proc.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += [str(ROOT / "recipes" / "search.py"), SST2, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\ntrial 0: ") == done.stdout.count("\nThe best is in ") == 1  # rank 0 alone speaks
    facts = json.loads((tmp_path / "search" / "search.json").read_text())
    assert len(facts["trials"]) == 2
    runs = [*(tmp_path / "search" / "final").glob("*/seed-1/run.json")]
    assert runs and all(json.loads(path.read_text())["processes"] == 2 for path in runs)


def test_knobs_are_written_with_the_digits_that_are_tried():
    assert as_words({"num_train_epochs": 0}, 20) == ["--contrastive_steps", "20", "--num_train_epochs", "0"]
    assert as_words({"num_train_epochs": 0, "contrastive_steps": 3}, 20)[:2] == ["--contrastive_steps", "3"]
    assert as_words({"pooling": "cls"}, 20) == ["--pooling", "cls"]
    assert as_words({"learning_rate": 1.23456e-5, "num_train_epochs": 3, "pooling": "cls"}) == (
        "--learning_rate 1.23e-05 --num_train_epochs 3 --pooling cls".split()
    )


@pytest.mark.parametrize("words", [["--seeds", "1", "-1"], ["--seeds", "3", "3"], ["--seed", str(2**32)]])
def test_seeds_that_no_run_takes_are_refused_before_a_trial(tmp_path, words):
    with pytest.raises(ValueError, match="Found --seed or --seeds out of range, or one twice"):
        search(SST2, "--sample", "--output_dir", tmp_path, *words)
