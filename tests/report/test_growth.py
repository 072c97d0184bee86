"""Would more labels help: runs of several sizes, as a curve and a sentence."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, load_recipe
from helpers import arguments_of

from bertcls.report.compare import describe_growth, read_growth
from bertcls.training.launch import parse_runs

RIGHT, WRONG = "river bird rain flower seed winter".split(), "bank market loan profit tax budget".split()


def rows_of(values, rows: int, measure: str = "accuracy") -> dict:
    return {"rows": rows, "measure": measure, "values": np.atleast_2d(np.asarray(values, dtype=float))}


@pytest.mark.parametrize(
    "measure, before, last, said",
    [
        ("accuracy", [0] * 40 + [1] * 60, [0] * 10 + [1] * 90, "rose by 0.3 .*: more labels are likely to help"),
        ("accuracy", [0] * 40 + [1] * 60, [0] * 39 + [1] * 61, "rose by 0.01 .*: these rows cannot tell"),
        ("accuracy", [0] * 10 + [1] * 90, [0] * 40 + [1] * 60, "fell by 0.3 .*: more labels like these do not help"),
        ("mean absolute error", [2.0, 2.1] * 50, [1.0, 1.2] * 50, "fell by 0.95 .*: more labels are likely to help"),
    ],
)
def test_the_sentence_follows_from_the_last_two_sizes(measure, before, last, said):
    random = np.random.default_rng(0)
    sizes = [rows_of(random.permutation(values), rows, measure) for values, rows in ((before, 100), (last, 200))]
    found = describe_growth([rows_of([0.5, 0.5], 50, measure), *sizes])
    assert (
        found.startswith(f"From 100 to 200 training rows the {measure} ") and pd.Series([found]).str.contains(said)[0]
    )


@pytest.mark.slow
def test_runs_of_several_sizes_make_a_curve(tmp_path, capsys):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice((RIGHT, WRONG)[row % 2], 5)) + f" {row}" for row in range(120)]
    pd.DataFrame({"text": texts, "label": ["nature", "money"] * 60}).to_csv(tmp_path / "mine.csv", index=False)
    recipe = load_recipe("csv_finetune")
    words = ["--train_file", str(tmp_path / "mine.csv"), "--model_name_or_path", str(TINY), "--from_scratch"]
    words += ["--pooling", "mean", "--max_length", "16", "--num_train_epochs", "1", "--figures", "false"]
    words += ["--train_sizes", "0.25", "1", "--seeds", "1", "2", "--output_dir", str(tmp_path / "sizes")]
    for args, training_args in parse_runs(arguments_of(recipe), words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE):
        recipe.main(args, training_args)
    sizes = read_growth(str(tmp_path / "sizes"))
    assert [size["rows"] for size in sizes] == [27, 108] and all(size["values"].shape == (2, 12) for size in sizes)
    assert all(size["low"] <= size["mean"] <= size["high"] for size in sizes)
    assert any("TF-IDF" in name for name in sizes[0]["beside"])
    load_recipe("compare_runs").main([str(tmp_path / "sizes")], str(tmp_path / "compared"))
    facts = json.loads((tmp_path / "compared" / "growth.json").read_text())
    assert facts["verdict"] == describe_growth(sizes) and facts["verdict"] in capsys.readouterr().out
    assert (tmp_path / "compared" / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_one_size_is_no_curve(tmp_path):
    with pytest.raises(FileNotFoundError, match="Found 0 finished sizes in .*; expected two or more"):
        read_growth(str(tmp_path))
