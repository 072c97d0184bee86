"""What to try next, and labels that are probably wrong."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from conftest import load_recipe

from bertcls import RecipeArguments
from bertcls.layout import RESULTS
from bertcls.report.advice import advise
from bertcls.report.folds import rank_suspects, write_suspects
from bertcls.training.launch import parse_runs


def facts(**changes) -> dict:
    task = {
        "problem_type": "single_label_classification",
        "rows": {"train": 200},
        "class_weights": None,
        "label_shares": {"train": {"a": 0.5, "b": 0.5}},
    }
    task |= changes.pop("task", {})
    arguments = {"learning_rate": 5e-5, "label_smoothing_factor": 0.0}
    model = {"contract": {"truncation": "head", "pair_truncation": None}}
    found = {"task": task, "arguments": arguments, "chosen": {"made": 100}, "baselines": [], "cut": 0.0}
    return found | {"model": model} | changes


def log(*losses: float, evaluated: tuple = (0.5, 0.4, 0.41), key: str = "eval_loss") -> list[dict]:
    entries = [{"step": 10 * (n + 1), "loss": loss} for n, loss in enumerate(losses)]
    return entries + [{"step": 10 * (n + 1), "eval_loss": loss, key: loss} for n, loss in enumerate(evaluated)]


def test_nothing_is_said_where_nothing_stands_out():
    assert advise(facts(), log(0.6, 0.4, 0.3)) == []
    assert advise(facts(task={"label_shares": {"train": {}}, "problem_type": "regression"}), log(0.9)) == []
    rare = {"label_shares": {"train": {"a": 0.9, "b": 0.1}}}
    assert advise(facts(task=rare | {"class_weights": [5 / 9, 5.0]}), log(0.4)) == []  # the constant's is 0.69
    smoothed = {"learning_rate": 5e-5, "label_smoothing_factor": 0.1}
    assert advise(facts(task=rare, arguments=smoothed), log(0.33)) == []
    assert advise(facts(chosen={"made": 0}), []) == []  # no epoch


@pytest.mark.parametrize(
    "changes, history, start",
    [
        (
            {},
            log(0.71, 0.69, 0.7),
            "The training loss hardly fell below that of a constant answer (0.69): the learning",
        ),
        (
            {"baselines": [{"name": "TF-IDF", "outcome": "worse"}]},
            log(0.5),
            "TF-IDF is better than the encoder beyond",
        ),
        ({"chosen": {"made": 12, "steps": 5}}, log(0.5), "Only 12 steps were made"),
        ({}, log(0.5, evaluated=(0.5, 0.45, 0.4)), "The loss of the selection rows still fell at the end"),
        (
            {},
            log(0.5, evaluated=(0.5, 0.45, 0.4), key="eval_calibrated_loss"),
            "The calibrated loss of the selection rows still fell",
        ),
        (
            {},  # by heart, too, but more of it still helps: one of two lines that contradict each other
            log(0.5, 0.1, evaluated=(0.5, 0.45, 0.4)),
            "The loss of the selection rows still fell",
        ),
        ({}, log(0.5, 0.1, evaluated=(0.4, 0.6, 0.8)), "Training rows are known by heart and others are not"),
        (
            {"task": {"label_shares": {"train": {"a": 0.98, "b": 0.02}}}},
            log(0.07, evaluated=(0.1, 0.08, 0.09)),
            "b has 4 training rows",
        ),
        (
            {"cut": 0.25, "model": {"contract": {"truncation": "head", "pair_truncation": None}}},
            log(0.5),
            "25% of the tokens are not read: raise --max_length, or use --truncation none.",
        ),
        (
            {"cut": 0.25, "model": {"contract": {"pair_truncation": "none"}}},
            log(0.5),
            "25% of the tokens are not read: raise --max_length.",
        ),
        (
            {"baselines": [{"name": "always answering a", "outcome": "worse"}]},
            log(0.5),
            "always answering a is better than the encoder beyond noise: look at the scores of each label",
        ),
        ({"suspects": 7}, log(0.5), "7 labels are answered otherwise by models that did not see them"),
    ],
)
def test_a_fact_that_stands_out_gets_its_line(changes, history, start):
    said = advise(facts(**changes), history)
    assert len(said) == 1 and said[0].startswith(start), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, expected",
    [
        ("--learning_rate 0.3 --num_train_epochs 3", ["The training loss hardly fell", "TF-IDF with logistic"]),
        ("--max_steps 6 --max_length 8 --truncation head", ["Only 6 steps were made", "of the tokens are not read"]),
        ("--learning_rate 1e-3 --num_train_epochs 12", ["Training rows are known by heart"]),
        ("--learning_rate 1e-4 --num_train_epochs 3", ["loss of the selection rows still fell at the end"]),
    ],
)
def test_runs_that_show_it(words, expected, tmp_path):
    recipe = load_recipe("csv_finetune")
    words = f"--sample --from_scratch --bf16 false --cpu_threads 1 --figures false {words}"
    argv = [*words.split(), "--output_dir", str(tmp_path / "run")]
    ((args, training_args),) = parse_runs(RecipeArguments, argv, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    recipe.main(args, training_args)
    said = json.loads((tmp_path / "run" / RESULTS).read_text())["advice"]
    assert all(any(part in line for line in said) for part in expected), said


def test_the_three_most_urgent_lines_are_said():
    every = facts(baselines=[{"name": "TF-IDF", "outcome": "worse"}], chosen={"made": 3}, cut=0.5, suspects=9)
    said = advise(every, log(math.log(2)))
    assert [line.split()[0] for line in said] == ["TF-IDF", "Only", "50%"]  # so few steps say nothing of the rate
    said = advise(every | {"chosen": {"made": 100}}, log(math.log(2)))
    assert [line.split()[0] for line in said] == ["The", "TF-IDF", "50%"]


def test_turned_labels_are_found_before_hard_ones():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    logits = random.normal(size=(600, 3)) + 3 * np.eye(3)[labels]  # a model that is mostly right
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    turned = random.choice(600, 30, replace=False)
    given = labels.copy()
    given[turned] = (given[turned] + 1) % 3
    first = rank_suspects(probabilities, given)[:30]
    assert len({*first} & {*turned}) >= 24


def test_suspects_are_a_file_with_the_ids_of_the_user(tmp_path):
    table = pd.DataFrame(
        {
            "example_id": ["x1", "x2", "x3", "x4"],
            "text": ["good", "fine", "bad", "poor"],
            "label": ["yes", "no", "no", "no"],
            "prediction": ["yes", "yes", "no", "yes"],
            "probability_no": [0.1, 0.02, 0.9, 0.4],
            "probability_yes": [0.9, 0.98, 0.1, 0.6],
        }
    )
    assert write_suspects(table.assign(id="=1+1"), ["no", "yes"], tmp_path) == 2
    assert pd.read_csv(tmp_path / "suspects.csv")["id"].tolist() == ["'=1+1"] * 2  # no formula
    assert write_suspects(table, ["no", "yes"], tmp_path) == 2
    found = pd.read_csv(tmp_path / "suspects.csv")
    assert found["example_id"].tolist() == ["x2", "x4"]
    assert found.columns.tolist() == [
        *("example_id", "text", "label", "prediction"),
        *("probability_of_label", "probability_of_prediction"),
    ]
