import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.stats import binomtest, ttest_1samp, ttest_ind

from bertcls.report.compare import compare_arms, describe_differences, load_arm, load_arms
from bertcls.report.statistics import accuracy_interval, paired_p_value


def write_run(folder, right, *, texts=None, ids=None, pairs=None):
    """A finished run whose predictions are right or wrong as `right` says."""
    (folder / "report").mkdir(parents=True, exist_ok=True)
    rows = len(right)
    labels = ["no" if i % 3 else "yes" for i in range(rows)]
    other = {"no": "yes", "yes": "no"}
    table = {
        "example_id": list(range(rows)) if ids is None else ids,
        "text": [f"text {i}" for i in range(rows)] if texts is None else texts,
        "label": labels,
        "prediction": [label if good else other[label] for label, good in zip(labels, right)],
    }
    table |= {} if pairs is None else {"text_pair": pairs}
    pd.DataFrame(table).to_parquet(folder / "report" / "predictions.parquet")
    scores = {"test_accuracy": float(np.mean(right)), "train_runtime": 60.0}
    (folder / "report" / "metrics.json").write_text(json.dumps({"scores": scores}))
    (folder / "run.json").write_text(json.dumps({"peak_memory_gib": {"process": 2.5, "accelerator": 7.5}}))
    return str(folder)


def correlated(draw, rows, one, other, shared=0.7):
    """Two runs with these accuracies that mostly err on the same examples."""
    common, own = draw.random(rows), draw.random((2, rows))
    scores = np.where(draw.random(rows) < shared, common, own)
    return scores[0] < one, scores[1] < other


def mcnemar(one, other):
    return paired_p_value(one == 1, other == 1)


def test_mcnemar_by_hand():
    right = np.array([1] * 20 + [0] * 5)
    assert mcnemar(right, right) == 1.0
    assert mcnemar(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 0])) == 2 * 0.5**3
    one, other = np.array([1] * 30 + [0] * 10), np.array([0] * 30 + [1] * 10)
    assert mcnemar(one, other) == pytest.approx(binomtest(10, 40).pvalue)


def test_equal_runs_are_called_different_as_rarely_as_promised():
    draw = np.random.default_rng(0)
    p_values = [mcnemar(*correlated(draw, 400, 0.85, 0.85)) for _ in range(400)]
    assert (
        np.mean(np.array(p_values) < 0.05) <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    )  # the exact test is conservative


def test_five_points_on_a_thousand_rows_are_found():
    draw = np.random.default_rng(1)
    p_values = [mcnemar(*correlated(draw, 1000, 0.83, 0.88)) for _ in range(100)]
    assert np.mean(np.array(p_values) < 0.05) > 0.9


def test_the_interval_holds_the_true_difference():
    draw, held = np.random.default_rng(2), 0
    for _ in range(200):
        one, other = (run[None].astype(float) for run in correlated(draw, 500, 0.80, 0.84))
        low, high = accuracy_interval(other, minus=one)
        held += low <= 0.04 <= high
    assert 181 <= held < 200  # at 95 % fewer has a probability below 0.01


@pytest.mark.parametrize("runs", [(3, 3), (1, 3), (5, 2)])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_seeds_are_not_taken_for_a_difference(runs, spread):
    draw, wrong = np.random.default_rng(3), 0
    for _ in range(150):  # the examples differ in difficulty, the runs in luck, by a spread of accuracy or not
        difficulty = draw.normal(size=500)
        arms = [
            [0.9 * difficulty + 0.4 * draw.normal(size=500) < 1 + draw.normal() * spread * 4 for _ in range(number)]
            for number in runs
        ]
        one, other = (np.array(arm, dtype=float) for arm in arms)
        low, high = accuracy_interval(other, minus=one)
        wrong += not low <= 0 <= high
    assert wrong <= 14  # of equal ways of training: more has a probability below 0.01 at 5 %


@pytest.mark.parametrize("rates", [([0.5, 0.52, 0.51], [0.54, 0.56]), ([0.5], [0.54, 0.56])])
def test_where_seeds_are_all_the_noise_it_is_students(rates):
    one, other = (np.repeat(np.array(runs)[:, None], 1000, axis=1) for runs in rates)
    expected = ttest_ind(other[:, 0], one[:, 0]).confidence_interval(0.9)
    assert accuracy_interval(other, minus=one, confidence=0.9) == pytest.approx((expected.low, expected.high))
    expected = ttest_1samp(other[:, 0], 0).confidence_interval()
    assert accuracy_interval(other) == pytest.approx((expected.low, expected.high))


def test_runs_that_differ_and_runs_that_do_not(tmp_path):
    draw = np.random.default_rng(3)
    one, other = correlated(draw, 1000, 0.80, 0.88)
    arms = [load_arm(write_run(tmp_path / name, right)) for name, right in (("direct", one), ("better", other))]
    rows = compare_arms(arms)
    assert rows[0]["differs"] and rows[0]["low"] < rows[0]["difference"] < rows[0]["high"]
    assert describe_differences(arms, rows).startswith("better is better than direct: better has +")
    assert "That is of these runs" in describe_differences(arms, rows)
    same = [arms[0], load_arm(write_run(tmp_path / "again", one ^ (np.arange(1000) % 200 == 0)))]
    assert describe_differences(same, compare_arms(same)).startswith("These data cannot tell again from direct:")


def test_several_seeds_are_one_arm(tmp_path):
    draw = np.random.default_rng(4)
    for seed in (1, 2, 3):
        one, other = correlated(draw, 600, 0.80, 0.90)
        write_run(tmp_path / "a" / f"seed-{seed}", one)
        write_run(tmp_path / "b" / f"seed-{seed}", other)
    arms = [load_arm(str(tmp_path / name)) for name in ("a", "b")]
    assert arms[0].right.shape == (3, 600)
    row = compare_arms(arms)[0]
    assert row["p_value"] is None and row["differs"] and 0.05 < row["difference"] < 0.15


def test_one_example_is_too_few():
    with pytest.raises(ValueError, match="Found 1 example; expected at least 2"):
        accuracy_interval(np.ones((2, 1)))


@pytest.mark.parametrize("change", ["texts", "ids", "rows"])
def test_runs_on_different_examples_are_refused(tmp_path, change):
    right = np.ones(10, dtype=bool)
    options = {"texts": {"texts": [f"other {i}" for i in range(10)]}, "ids": {"ids": list(range(5, 15))}, "rows": {}}
    one = load_arm(write_run(tmp_path / "one", right))
    other = load_arm(write_run(tmp_path / "other", right[: 8 if change == "rows" else 10], **options[change]))
    with pytest.raises(ValueError, match="Found runs on different examples in one and other"):
        compare_arms([one, other])


def test_pairs_with_other_second_texts_are_refused(tmp_path):
    right = np.ones(3, dtype=bool)
    folders = [write_run(tmp_path / end, right, pairs=["a", "b", end]) for end in ("c", "d")]
    with pytest.raises(ValueError, match="example 2 has another text"):
        compare_arms(load_arms(folders))


def test_arms_are_told_apart_by_name(tmp_path):
    right = np.ones(10, dtype=bool)
    folders = [write_run(tmp_path / way / "seed-1", right) for way in ("mean", "pooler")]
    assert [arm.name for arm in load_arms(folders)] == ["mean/seed-1", "pooler/seed-1"]
    assert [arm.name for arm in load_arms([folders[0], folders[0] + "/"])] == ["seed-1", "seed-1"]


def test_mcnemar_takes_no_time_for_many_rows():
    right = np.arange(200_000) % 2
    assert mcnemar(right, 1 - right) == 1.0
    assert mcnemar(right, np.zeros(200_000)) == 0.0


def test_rows_in_another_order_are_joined(tmp_path):
    right = np.arange(12) % 2 == 0
    one = write_run(tmp_path / "one", right)
    table = pd.read_parquet(tmp_path / "one" / "report" / "predictions.parquet").sample(frac=1, random_state=0)
    write_run(tmp_path / "other", right)
    table.to_parquet(tmp_path / "other" / "report" / "predictions.parquet")
    assert compare_arms([load_arm(one), load_arm(str(tmp_path / "other"))])[0]["difference"] == 0
    assert mcnemar(*(load_arm(str(tmp_path / name)).right[0] for name in ("one", "one"))) == 1.0


def test_the_command_prints_and_draws(tmp_path):
    draw = np.random.default_rng(5)
    one, other = correlated(draw, 300, 0.7, 0.9)
    write_run(tmp_path / "one", one)
    write_run(tmp_path / "two", other)
    state = {"log_history": [{"epoch": 1, "loss": 0.7}, {"epoch": 1, "eval_accuracy": 0.8}]}
    (tmp_path / "two" / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "two" / "checkpoints" / "checkpoint-1" / "trainer_state.json").write_text(json.dumps(state))
    command = [sys.executable, str(ROOT / "recipes" / "compare_runs.py"), str(tmp_path / "one"), str(tmp_path / "two")]
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "McNemar, two and one: p < 0.0001" in done.stdout and "two is better than one: two has +" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.json", "scores.png", "curves.png"}
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["mean"] for run in facts["runs"]] == pytest.approx([one.mean(), other.mean()])
    assert facts["runs"][1] == facts["runs"][1] | {"name": "two", "sd": None, "train_seconds": 60.0}
    assert facts["runs"][1]["peak_memory_gib"] == {"process": 2.5, "accelerator": 7.5}
    assert "2.5 GiB + 7.5 GiB GPU" in done.stdout and facts["verdict"] in done.stdout
    alone = subprocess.run(command[:3], capture_output=True, text=True)
    assert alone.returncode == 2 and "Found 1 run; expected at least two" in alone.stderr
