import json

import numpy as np
import pandas as pd
import pytest
from conftest import load_recipe
from scipy.stats import binomtest, ttest_1samp, ttest_ind

from bertcls.report.compare import (
    Arm,
    _most_frequent,
    compare_arms,
    describe_differences,
    load_arm,
    load_arms,
    read_growth,
)
from bertcls.report.statistics import mean_interval, paired_p_value


def write_run(
    folder, right, *, texts=None, ids=None, pairs=None, numbers=None, command=(), scores=None, arguments=None
):
    """A finished run whose predictions are right or wrong as `right` says, or `numbers` where the truth is 0 to 1."""
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
    table |= {} if numbers is None else {"label": np.linspace(0, 1, rows), "prediction": numbers}
    pd.DataFrame(table).to_parquet(folder / "report" / "predictions.parquet")
    scores = {"test_accuracy": float(np.mean(right)), "train_runtime": 60.0} | (scores or {})
    facts = {"scores": scores, "arguments": arguments or {}, "model": {"contract": {"temperature": np.mean(right)}}}
    (folder / "report" / "metrics.json").write_text(json.dumps(facts))
    record = {"peak_memory_gib": {"process": 2.5, "accelerator": 7.5}, "command": ["x.py", *command]}
    (folder / "run.json").write_text(json.dumps(record))
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


def test_seeds_that_answer_alike_tell_no_more_than_one():
    table = pd.DataFrame({"example_id": range(30), "text": "a", "label": ["x"] * 30, "prediction": ["x"] * 30})
    one, three = (Arm("a", [], [], [], {}, table, np.ones((runs, 30))) for runs in (1, 3))
    assert three.interval() == one.interval() and one.interval()[0] < 0.9


def test_the_interval_holds_the_true_difference():
    draw, held = np.random.default_rng(2), 0
    for _ in range(200):
        one, other = (run[None].astype(float) for run in correlated(draw, 500, 0.80, 0.84))
        low, high = mean_interval(other, minus=one)
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
        low, high = mean_interval(other, minus=one)
        wrong += not low <= 0 <= high
    assert wrong <= 14  # of equal ways of training: more has a probability below 0.01 at 5 %


def test_arms_that_answer_alike_are_told_so():
    """Luck that is the same in both arms leaves an interval of what is left, however many runs."""
    draw = np.random.default_rng(4)
    for _ in range(20):
        one = (draw.random((3, 1000)) < 0.8).astype(float)
        other = one[[1, 2, 0]]
        other[:, :5] = 1 - other[:, :5]
        low, high = mean_interval(other, minus=one)
        assert high - low < 0.1


@pytest.mark.parametrize("rates", [([0.5, 0.52, 0.51], [0.54, 0.56]), ([0.5], [0.54, 0.56])])
def test_where_seeds_are_all_the_noise_it_is_students(rates):
    one, other = (np.repeat(np.array(runs)[:, None], 1000, axis=1) for runs in rates)
    expected = ttest_ind(other[:, 0], one[:, 0]).confidence_interval(0.9)
    assert mean_interval(other, minus=one, confidence=0.9) == pytest.approx((expected.low, expected.high))
    expected = ttest_1samp(other[:, 0], 0).confidence_interval()
    assert mean_interval(other) == pytest.approx((expected.low, expected.high))


def test_runs_that_differ_and_runs_that_do_not(tmp_path):
    draw = np.random.default_rng(3)
    one, other = correlated(draw, 1000, 0.80, 0.88)
    arms = [load_arm(write_run(tmp_path / name, right)) for name, right in (("direct", one), ("better", other))]
    rows = compare_arms(arms)
    assert rows[0]["outcome"] == "better" and rows[0]["low"] < rows[0]["difference"] < rows[0]["high"]
    assert describe_differences(arms, rows).startswith("better is better than direct: +")
    back = compare_arms(arms[::-1])
    assert (
        back[0]["outcome"] == "worse"
        and back[0]["answers_changed"] == rows[0]["answers_changed"] == (one ^ other).sum()
    )
    assert describe_differences(arms[::-1], back).startswith("direct is worse than better: -")
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
    assert arms[0].values.shape == (3, 600)
    row = compare_arms(arms)[0]
    assert row["p_value"] is None and row["outcome"] == "better" and 0.05 < row["difference"] < 0.15


def test_one_example_is_too_few():
    with pytest.raises(ValueError, match="Found 1 example; expected at least 2"):
        mean_interval(np.ones((2, 1)))


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


def test_the_answer_of_most_runs_counts():
    draw = np.random.default_rng(0)
    answers = pd.DataFrame(draw.choice([*"abc"], (500, 3)))
    assert _most_frequent(answers).tolist() == answers.mode(axis=1)[0].tolist()


def test_baselines_are_called_alike_over_sizes(tmp_path):
    for rows, answer in ((10, "yes"), (20, "no")):
        folder = tmp_path / f"size-{rows}"
        write_run(folder, np.arange(30) % 2 == 0, scores={"train_samples": rows})
        facts = json.loads((folder / "report" / "metrics.json").read_text())
        constant = {"name": f"always answering {answer} (the most frequent)", "score": 0.5}
        simple = [{"name": f"TF-IDF ({rows} of 20 rows)", "score": 0.6}]
        facts |= {"baselines": [constant, *simple[: rows // 20]], "measure": "accuracy"}
        (folder / "report" / "metrics.json").write_text(json.dumps(facts))
    sizes = load_recipe("compare_runs").main([str(tmp_path)], str(tmp_path / "compared"))
    assert [size["beside"] for size in sizes] == [
        {"one answer always": 0.5},
        {"one answer always": 0.5, "TF-IDF": 0.6},
    ]


def test_sizes_without_baselines_are_a_curve(tmp_path):
    for rows in (10, 20):
        write_run(tmp_path / f"size-{rows}", np.arange(30) % 2 == 0, scores={"train_samples": rows})
    assert [size["beside"] for size in load_recipe("compare_runs").main([str(tmp_path)])] == [{}, {}]


def test_rows_in_another_order_are_joined(tmp_path):
    right = np.arange(12) % 2 == 0
    one = write_run(tmp_path / "one", right)
    table = pd.read_parquet(tmp_path / "one" / "report" / "predictions.parquet").sample(frac=1, random_state=0)
    write_run(tmp_path / "other", right)
    table.to_parquet(tmp_path / "other" / "report" / "predictions.parquet")
    assert compare_arms([load_arm(one), load_arm(str(tmp_path / "other"))])[0]["difference"] == 0
    assert mcnemar(*(load_arm(str(tmp_path / name)).values[0] for name in ("one", "one"))) == 1.0


def test_what_differs_between_arms(tmp_path):
    draw = np.random.default_rng(6)
    right = {name: [run for run in correlated(draw, 60, 0.8, 0.9)] for name in ("a", "b")}
    said = {"a": ["--pooling", "mean", "--labels", "x", "y"], "b": ["--pooling=cls", "--learning_rate", "1e-3"]}
    for name, runs in right.items():
        for seed, run in enumerate(runs):
            command = ["--seed", str(seed), "--output_dir", name, *said[name]]
            write_run(
                tmp_path / name / str(seed), run, command=command, arguments={"learning_rate": 0.001, "seed": seed}
            )
    first, other = (load_arm(str(tmp_path / name)) for name in ("a", "b"))
    (row,) = compare_arms([first, other])
    assert row["options"] == {"pooling": ["mean", "cls"], "labels": ["x y", None]}
    text = other.table["text"][0]
    table = [(one, two) for one, two in zip(first.table["prediction"], other.table["prediction"]) if one != two]
    assert row["answers_changed"] == len(table) and len(row["changed"]) == min(len(table), 20) and text == "text 0"
    for shown in row["changed"]:
        at = shown["example_id"]
        assert shown["prediction"] == first.table["prediction"][at] != shown["other_prediction"]
        assert shown["text"] == f"text {at}" and shown["label"] == first.table["label"][at]


def test_numbers_are_compared_by_how_far_off_they_are(tmp_path):
    draw, right = np.random.default_rng(7), np.ones(80, dtype=bool)
    truth = np.linspace(0, 1, 80)
    near, far = truth + draw.normal(0, 0.05, 80), truth + draw.normal(0, 0.3, 80)
    for name, numbers in (("near", near), ("far", far), ("again", near + draw.normal(0, 0.001, 80))):
        write_run(tmp_path / name, right, numbers=numbers)
    arms = load_arms([str(tmp_path / name) for name in ("near", "far", "again")])
    rows = compare_arms(arms)
    assert [row["outcome"] for row in rows] == ["worse", "cannot tell"] and rows[0]["p_value"] < 0.001
    off = np.abs(far - truth).mean() - np.abs(near - truth).mean()
    assert rows[0]["difference"] == pytest.approx(off) and rows[0]["low"] < off < rows[0]["high"]
    assert rows[0]["changed"][0]["example_id"] == np.abs(far - near).argmax() and len(rows[0]["changed"]) == 20
    assert describe_differences(arms, rows).startswith(f"far is worse than near: {off:+.3g} in mean absolute error (+")
    assert compare_arms(arms[1::-1])[0]["outcome"] == "better"  # less is better
    for seed in range(3):
        write_run(tmp_path / "seeds" / str(seed), right, numbers=far + draw.normal(0, 0.01, 80))
    (row,) = compare_arms([arms[0], load_arm(str(tmp_path / "seeds"))])
    assert row["p_value"] is None and row["outcome"] == "worse"


def test_one_folder_of_seeds_is_summed_up(tmp_path, capsys):
    recipe, draw = load_recipe("compare_runs"), np.random.default_rng(8)
    for seed in range(3):
        scores = {"test_mcc": 0.5 + seed / 10, "test_f1_macro": 0.7}
        write_run(tmp_path / "seeds" / f"seed-{seed}", correlated(draw, 200, 0.8, 0.8)[0], scores=scores)
    arm = load_arm(str(tmp_path / "seeds"))
    assert recipe.main([str(tmp_path / "seeds")], str(tmp_path / "out"), ["mcc"]) == []
    told = capsys.readouterr().out
    (one,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]
    low, high = mean_interval(arm.values)
    means = arm.values.mean(1)
    assert (one["mean"], one["sd"], one["low"], one["high"]) == pytest.approx(
        (means.mean(), means.std(ddof=1), low, high)
    )
    assert one["metrics"] == {"mcc": {"mean": pytest.approx(0.6), "sd": pytest.approx(0.1)}}
    assert (
        f"seeds: accuracy {means.mean():.2f} ({low:.2f} to {high:.2f}) over 3 runs." in told and "0.60 (0.1)" in told
    )
    with pytest.raises(
        ValueError, match="Found --metrics kappa, which not all runs of seeds have; .* accuracy, f1_macro"
    ):
        recipe.main([str(tmp_path / "seeds")], metrics=["kappa"])


def test_the_recipe_prints_and_draws(tmp_path, capsys):
    recipe, draw = load_recipe("compare_runs"), np.random.default_rng(5)
    one, other = correlated(draw, 300, 0.7, 0.9)
    write_run(tmp_path / "one", one)
    write_run(tmp_path / "two", other)
    state = {"log_history": [{"epoch": 1, "loss": 0.7}, {"epoch": 1, "eval_accuracy": 0.8}]}
    (tmp_path / "two" / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "two" / "checkpoints" / "checkpoint-1" / "trainer_state.json").write_text(json.dumps(state))
    recipe.main([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "out"))
    told = capsys.readouterr().out
    assert "McNemar, two and one: p < 0.0001" in told and "two is better than one: +" in told
    assert f"{(one ^ other).sum()} of 300 texts have another answer" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.json", "scores.png", "curves.png"}
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["mean"] for run in facts["runs"]] == pytest.approx([one.mean(), other.mean()])
    assert facts["runs"][1] == facts["runs"][1] | {"name": "two", "sd": None, "train_seconds": 60.0}
    assert facts["runs"][1]["peak_memory_gib"] == {"process": 2.5, "accelerator": 7.5}
    assert "60 seconds  2.5 GiB + 7.5 GiB GPU" in told and facts["verdict"] in told
    with pytest.raises(ValueError, match="Found 1 run; expected two, or a folder"):
        recipe.main([str(tmp_path / "one")])


@pytest.mark.parametrize("of_seeds", ["", "seed-"])  # the latter where an older run of other options was left
def test_a_folder_of_other_encoders_is_no_arm(of_seeds, tmp_path):
    for name in (f"{of_seeds}one", f"{of_seeds}two"):
        write_run(tmp_path / name, [True, False] * 30)
        path = tmp_path / name / "report" / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"encoder": name}}))
    with pytest.raises(
        ValueError, match=f"Found runs of {of_seeds}one and {of_seeds}two in .*; expected those of one way"
    ):
        load_arm(str(tmp_path))
    path.write_text("{")
    with pytest.raises(ValueError, match="two/report/metrics.json cannot be read"):
        load_arm(str(tmp_path / name))


def test_runs_of_one_seed_are_not_taken_for_seeds(tmp_path):
    for size in (100, 200):
        write_run(tmp_path / f"size-{size}", [True, False] * 30, scores={"seed": 42})
    with pytest.raises(ValueError, match="Found runs of one seed in .*; expected those of one way, by several seeds"):
        load_arm(str(tmp_path))


def test_an_option_without_a_value_is_on_and_a_curve_needs_different_sizes(tmp_path):
    one, other = (
        write_run(tmp_path / name, [True, False] * 30, command=words)
        for name, words in (("one", ["--freeze-encoder"]), ("other", ["--freeze_encoder=true"]))
    )
    assert load_arm(one).options["freeze_encoder"] == load_arm(other).options["freeze_encoder"] == "true"
    for size in (100, 200):  # of 90 rows
        write_run(tmp_path / "sizes" / f"size-{size}", [True] * 30, scores={"train_samples": 90})
    with pytest.raises(FileNotFoundError, match="expected two or more"):
        read_growth(str(tmp_path / "sizes"))
