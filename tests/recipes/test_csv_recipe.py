"""The template on people's own files: classes, several labels, numbers, pairs."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SAMPLE, TINY, load_recipe, real_path
from datasets import ClassLabel, Dataset
from helpers import arguments_of

from bertcls import RecipeArguments, TextClassifier, load_splits
from bertcls.report.formats import format_score
from bertcls.training.launch import parse, parse_runs

TOPICS = {
    "sport": "team coach goal season match player league stadium",
    "money": "bank market shares loan profit price tax budget",
    "nature": "river forest bird rain mountain flower seed winter",
}
QUICK = ["--model_name_or_path", str(TINY), "--from_scratch", "--pooling", "mean", "--max_length", "32"]
QUICK += ["--learning_rate", "3e-3", "--num_train_epochs", "6", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("csv_finetune")


def run(recipe, folder, *words):
    words = ["--figures", "false", *words, "--output_dir", str(folder / "run")]
    arguments = arguments_of(recipe)
    return recipe.main(*parse(arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE))


def headlines(rows: int, topics: int = 1, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    result = []
    for number in range(rows):
        chosen = draw.sample(sorted(TOPICS), k=draw.randint(0, 2) if topics > 1 else 1)
        words = [draw.choice(TOPICS[topic].split()) for topic in chosen for _ in range(4)] + ["the", "of", str(number)]
        draw.shuffle(words)
        result.append({"headline_body": " ".join(words), "topic": chosen})
    return result


def test_a_csv_of_ones_own_needs_no_edit(recipe, tmp_path, capsys):
    rows = [{**row, "topic": row["topic"][0]} for row in headlines(300)]
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", sep=";", index=False, encoding="utf-8-sig")
    words = ["--train_file", str(tmp_path / "mine.csv"), "--text_column", "headline_body", "--label_column", "topic"]
    results = run(recipe, tmp_path, *words, *QUICK)
    assert results["test_accuracy"] > 0.8 and results["test_samples"] == 30
    said = capsys.readouterr().out
    assert "single_label_classification: money, nature, sport" in said and "rows: train 270, test 30" in said
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["leaked"] is False
    classifier = TextClassifier.from_pretrained(str(tmp_path / "run"))
    assert classifier.predict("goal team league match")[0].label == "sport"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lists", "delimiter"])
def test_several_labels(recipe, tmp_path, form):
    rows = headlines(600, topics=2)
    if form == "lists":
        path, words = tmp_path / "mine.jsonl", []
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path, words = tmp_path / "mine.csv", ["--label_delimiter", ";", "--class_weights", "balanced"]
        pd.DataFrame([{**row, "topic": "; ".join(row["topic"])} for row in rows]).to_csv(path, index=False)
    words += ["--train_file", str(path), "--text_column", "headline_body", "--label_column", "topic"]
    results = run(recipe, tmp_path, *words, *QUICK)
    assert results["test_f1_micro"] > 0.8 and results["test_f1_macro"] > 0.7
    classifier = TextClassifier.from_pretrained(str(tmp_path / "run"))
    assert len(classifier.model.config.thresholds) == 3
    answers = classifier.predict(["goal team league match bank tax loan price", "the of the of"])
    assert set(answers[0].label) == {"money", "sport"} and answers[1].label == ()
    table = pd.read_parquet(tmp_path / "run" / "report" / "predictions.parquet")
    assert all(set(labels) <= set(TOPICS) for labels in table["label"])
    exact = sum(list(a) == list(b) for a, b in zip(table["label"], table["prediction"])) / len(table)
    assert exact == pytest.approx(results["test_accuracy"])
    facts = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    constant, tfidf = facts["baselines"]
    given = set(constant["name"].removeprefix("always answering ").replace("no label", "").split(", ")) - {""}
    assert constant["score"] == sum(set(labels) == given for labels in table["label"]) / len(table)
    held_out = set(table["text"])
    trained = [frozenset(row["topic"]) for row in rows if row["headline_body"] not in held_out]
    assert trained.count(frozenset(given)) > 0.8 * max(map(trained.count, set(trained)))  # counted in train alone
    assert tfidf["name"] == "TF-IDF with logistic regression" and tfidf["low"] < tfidf["score"] <= tfidf["high"]
    probabilities = table[[f"probability_{name}" for name in sorted(TOPICS)]].to_numpy().ravel()
    truth = np.array([[name in labels for name in sorted(TOPICS)] for labels in table["label"]]).ravel()
    gaps = pd.DataFrame({"bin": (probabilities * 15).astype(int), "gap": truth - probabilities})
    ece = gaps.groupby("bin")["gap"].sum().abs().sum() / len(gaps)
    assert facts["calibration"]["ece"] == pytest.approx(ece)
    assert facts["calibration"]["temperature"] == classifier.model.config.temperature
    assert sum(row["rows"] for row in facts["slices"] if row["slice"] == "words") == len(table)
    wrong = table[[list(a) != list(b) for a, b in zip(table["label"], table["prediction"])]]
    assert len(facts["errors"]) == min(len(wrong), 20)
    for error in facts["errors"]:
        assert (error["decision"] in error["label"]) != (error["decision"] in error["prediction"])
        assert error["probabilities"][error["decision"]] == error["probability"] and error["similar"]


@pytest.mark.slow
def test_numbers_far_from_zero(recipe, tmp_path):
    draw = random.Random(1)
    rows = []
    for number in range(300):
        good = draw.randint(0, 6)
        words = ["good"] * good + ["bad"] * (6 - good) + [str(number)]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": 1000 + 50.5 * good})
    pd.DataFrame(rows).to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
    results = run(recipe, tmp_path, "--train_file", str(tmp_path / "mine.tsv"), *QUICK)
    assert results["test_pearson"] > 0.8 and results["test_r2"] > 0.5
    assert results["test_pearson_low"] < results["test_pearson"] < results["test_pearson_high"]
    answer = TextClassifier.from_pretrained(str(tmp_path / "run")).predict("good good good bad bad bad 7")[0]
    assert 1050 < answer.label < 1250 and answer.score is None
    table = pd.read_parquet(tmp_path / "run" / "report" / "predictions.parquet")
    assert ((table["label"] - table["prediction"]) ** 2).mean() ** 0.5 == pytest.approx(results["test_rmse"], rel=1e-4)
    facts = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    errors = (table["label"] - table["prediction"]).abs()
    assert results["test_mae"] == pytest.approx(errors.mean()) and facts["measure"] == "mean absolute error"
    assert results["test_mae_low"] < results["test_mae"] < results["test_mae_high"]
    median, tfidf = facts["baselines"]
    assert median["outcome"] == "better" and median["score"] > 1.5 * results["test_mae"]
    assert tfidf["name"].startswith("TF-IDF with r")
    written = format_score(results["test_mae"], len(table), error=True)
    assert (
        f"encoder (mean absolute error {written})" in facts["headline"]
        and "is better than always" in facts["headline"]
    )
    assert facts["task"]["label_column"] == "value"
    furthest = [abs(error["label"] - error["prediction"]) for error in facts["errors"]]
    assert furthest == pytest.approx(errors.nlargest(20).tolist())
    assert "calibration" not in facts and "confusions" not in facts


@pytest.mark.slow
def test_pairs(recipe, tmp_path):
    words = ["--dataset_name", str(SAMPLE.parent / "pairs"), "--text_column", "sentence1"]
    results = run(recipe, tmp_path, *words, "--text_pair_column", "sentence2", *QUICK, "--max_length", "64")
    assert results["test_samples"] == 100
    classifier = TextClassifier.from_pretrained(str(tmp_path / "run"))
    assert classifier.model.config.pair_truncation == "none"
    assert classifier.predict(("One text.", "Another one."))[0].label in ("different", "equivalent")
    with pytest.raises(TypeError, match="expected a tuple of two strings, since the model reads pairs"):
        classifier.predict("One text.")


@pytest.mark.slow
def test_the_sample_and_the_four_places(recipe, tmp_path):
    assert (
        run(recipe, tmp_path, "--sample", "--max_train_samples", "64", "--num_train_epochs", "1")["test_samples"]
        == 460
    )
    source = (ROOT / "recipes" / "csv_finetune.py").read_text()
    assert [source.count(f"EDIT {number}:") for number in range(1, 6)] == [1, 1, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [("mrpc_finetune", 100), ("chnsenticorp_finetune", 40), ("imdb_finetune", 21), ("newsgroups_finetune", 21)],
)
def test_the_other_samples(name, rows, tmp_path):
    other = load_recipe(name)
    results = run(other, tmp_path, "--sample")
    assert results["test_samples"] == rows
    if rows == 21:  # a contrastive stage and a linear head
        assert results["test_accuracy"] >= 0.5  # a third is the largest class
    else:
        history = next((tmp_path / "run").glob("checkpoints/*/trainer_state.json")).read_text()
        losses = [entry["loss"] for entry in json.loads(history)["log_history"] if "loss" in entry]
        assert losses[-1] < 0.8 * losses[0]  # it learns its rows; of so few it need not do well on others
    classifier = TextClassifier.from_pretrained(str(tmp_path / "run"))
    if name == "chnsenticorp_finetune":
        assert results["test_accuracy"] >= 0.5 + 2 * (0.25 / 40) ** 0.5  # two standard errors above the majority share
        wide, narrow = classifier.probabilities(["房间Ｗｉｆｉ很快", "房间Wifi很快"])
        assert wide.tolist() == narrow.tolist()
    if rows == 21:
        assert 0 <= results["test_window_accuracy"] <= 1 and 0 <= results["test_vote_accuracy"] <= 1
        texts = load_splits(str(SAMPLE.parent / "long"))["test"]["text"][:]
        windows = [len(answer.windows) for answer in classifier.predict(texts, windows=True)]
        assert min(windows) >= 3


@pytest.mark.slow
def test_windows_as_training_examples_and_truncation(tmp_path):
    recipe = load_recipe("imdb_finetune")
    words = ["--sample", "--from_scratch", "--num_train_epochs", "1"]
    documents = run(recipe, tmp_path / "a", *words)
    windows = run(recipe, tmp_path / "b", *words, "--train_on", "windows")
    head = run(recipe, tmp_path / "c", *words, "--truncation", "head_tail")
    assert documents["train_samples"] == windows["train_samples"] == head["train_samples"] == 34
    assert windows["train_steps_per_second"] * windows["train_runtime"] > 3 * (
        documents["train_steps_per_second"] * documents["train_runtime"]
    )
    assert "test_window_accuracy" not in head  # one window a document
    classifier = TextClassifier.from_pretrained(str(tmp_path / "c" / "run"))
    assert classifier.model.config.truncation == "head_tail"
    assert len(classifier.predict("film " * 900, windows=True)[0].windows) == 1


@pytest.mark.parametrize("sample", ["reviews", "chinese", "long"])
def test_the_tfidf_baseline_writes_the_same_report(sample, tmp_path):
    words = ["--dataset_name", str(SAMPLE.parent / sample)]
    results = run(load_recipe("tfidf_baseline"), tmp_path, *words)
    table = pd.read_parquet(tmp_path / "run" / "report" / "predictions.parquet")
    assert (table["label"] == table["prediction"]).mean() == pytest.approx(results["test_accuracy"])
    assert results["test_accuracy"] > {"reviews": 0.75, "chinese": 0.7, "long": 0.5}[sample]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock",
        "audit.json",
        "checkpoints",
        "report",
        "run.json",
    }


def test_the_tfidf_baseline_of_several_labels_and_of_numbers(tmp_path):
    recipe = load_recipe("tfidf_baseline")
    path = tmp_path / "several.jsonl"
    path.write_text("\n".join(map(json.dumps, headlines(300, topics=2))))
    words = ["--text_column", "headline_body", "--label_column", "topic"]
    assert run(recipe, tmp_path / "a", "--train_file", str(path), *words)["test_f1_micro"] > 0.9
    rows = [{"text": f"{'good ' * (n % 7)}{'bad ' * (7 - n % 7)}{n}", "label": 10.5 * (n % 7)} for n in range(200)]
    pd.DataFrame(rows).to_csv(tmp_path / "numbers.csv", index=False)
    assert run(recipe, tmp_path / "b", "--train_file", str(tmp_path / "numbers.csv"))["test_pearson"] > 0.7


@pytest.mark.real
def test_the_tfidf_baseline_on_newsgroups(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", real_path("BERTCLS_DATA") + "/scikit_learn_data")
    results = run(load_recipe("tfidf_baseline"), tmp_path, "--dataset_name", "20newsgroups", "--remove", "none")
    assert results["test_samples"] == 1502 and results["train_samples"] == 2257 - 225
    assert results["test_accuracy"] == pytest.approx(0.919, abs=0.01)  # on all of train; here a tenth is held out


@pytest.mark.slow
def test_the_newsgroups_recipe_reads_the_file_that_is_given(tmp_path, monkeypatch):
    other = load_recipe("newsgroups_finetune")
    monkeypatch.setattr("bertcls.data.load.load_newsgroups", lambda *_: pytest.fail("loaded newsgroups"))
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({**row, "topic": row["topic"][0]}) + "\n" for row in headlines(60)))
    words = ["--train_file", str(path), "--text_column", "headline_body", "--label_column", "topic"]
    assert run(other, tmp_path, *words, *QUICK, "--num_train_epochs", "1")["test_samples"] == 6


def test_a_class_that_no_training_row_has(tmp_path):
    names = ["unused", "pos", "neg"]
    rows = Dataset.from_dict({"text": ["good film", "bad film"] * 30, "label": [1, 2] * 30})
    rows = rows.map(lambda row, i: {"text": f"{row['text']} {i}"}, with_indices=True)
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        rows.cast_column("label", ClassLabel(names=names)).to_parquet(tmp_path / "data" / f"{name}.parquet")
    results = run(load_recipe("tfidf_baseline"), tmp_path, "--dataset_name", str(tmp_path / "data"))
    assert results["test_accuracy"] == 1.0 and results["test_per_class"]["unused"]["support"] == 0


def test_options_that_do_not_go_with_the_texts_are_refused(tmp_path):
    """One main serves texts and pairs, one label, several and numbers: what does not go together is said."""
    words = ["--sample", "--output_dir", str(tmp_path / "run"), "--overwrite_output"]
    for name, option, message in (
        ("mrpc", ["--truncation", "head"], "Found --truncation head and --pair_truncation longest_first with pairs"),
        (
            "imdb",
            ["--label_delimiter", ";"],
            "Found --label_delimiter ';' with labels of type int64; expected strings",
        ),
    ):
        recipe = load_recipe(f"{name}_finetune")
        options = {"defaults": recipe.DEFAULTS, "sample": recipe.SAMPLE}
        with pytest.raises(ValueError, match=message):
            recipe.main(*parse(RecipeArguments, [*words, *option], **options))


def test_tfidf_has_no_folds(tmp_path):
    words = ["--sample", "--folds", "3", "--output_dir", str(tmp_path / "run")]
    recipe = load_recipe("tfidf_baseline")
    with pytest.raises(ValueError, match="Found --folds; expected it left out"):
        next(parse_runs(recipe.Arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE))
