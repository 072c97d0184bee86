"""What each label is given for: a planted shortcut is found, and labels of every kind of task are told."""

import json

import numpy as np
import pytest
from conftest import ROOT, TINY, load_recipe
from datasets import load_dataset
from helpers import arguments_of

from bertcls import TextClassifier
from bertcls.inference import texts_of
from bertcls.report.deciding import deciding_words, words_of_texts
from bertcls.training.launch import parse_runs

PLANTED = "violet"


def with_shortcut(rows, seed: int) -> list[dict]:
    """Reviews with a rare word in half of the positive ones, so that 90 % of the texts with it are positive."""
    random = np.random.default_rng(seed)
    labels = np.array(rows["label"][:])
    half = random.permutation(np.flatnonzero(labels == 1))[: (labels == 1).sum() // 2]
    others = random.permutation(np.flatnonzero(labels == 0))[: len(half) // 9]
    planted = {*half.tolist(), *others.tolist()}
    texts = [f"{text} {PLANTED}" if row in planted else text for row, text in enumerate(rows["sentence"][:])]
    return [{"text": text, "label": ["bad", "good"][label]} for text, label in zip(texts, labels)]


@pytest.mark.slow
def test_a_planted_shortcut_stands_first(tmp_path):
    splits = load_dataset(str(ROOT / "recipes" / "sample" / "reviews"))
    folder = tmp_path / "planted"
    folder.mkdir()
    for seed, part in enumerate(("train", "validation", "test")):
        rows = with_shortcut(splits[part], seed)
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = load_recipe("csv_finetune")
    words = ["--dataset_name", str(folder), "--model_name_or_path", str(TINY), "--from_scratch", "--pooling", "mean"]
    words += ["--max_length", "64", "--num_train_epochs", "8", "--learning_rate", "1e-3", "--seed", "1"]
    words += ["--figures", "false", "--output_dir", str(tmp_path / "run")]
    ((args, training_args),) = parse_runs(arguments_of(recipe), words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    recipe.main(args, training_args)
    facts = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    told = {part["label"]: part for part in facts["deciding"]}
    first = told["good"]["words"][0]
    assert (
        first["word"] == PLANTED
        and first["train_texts"] > 100
        and first["train_share"] == pytest.approx(0.9, abs=0.02)
    )
    assert first["tfidf"] > 0 and first["texts"] <= told["good"]["texts"]
    page = tmp_path / "run" / "report" / "report.html"
    assert not page.exists()  # without figures
    classifier = TextClassifier.from_pretrained(str(tmp_path / "run"), device="cpu")
    texts = [row["text"] for row in with_shortcut(splits["test"], 2) if PLANTED in row["text"]]
    answers = [answer for answer in classifier.predict(texts, words=True) if answer.label == "good"]
    strongest = [max(answer.words, key=lambda word: word.contributions["good"]).text for answer in answers]
    assert strongest.count(PLANTED) > 0.7 * len(strongest) > 20


def test_words_of_texts_leave_out_what_is_too_long(encoder_folder, monkeypatch):
    from test_words import make

    classifier = make(encoder_folder, num_labels=2)
    monkeypatch.setattr("bertcls.report.deciding._LONGEST", 20)
    short, long, empty = words_of_texts(classifier, ["good film", "a much longer text than that", ""])
    assert [word["text"] for word in short["words"]] == ["good", "film"] and long == empty == {}
    (answer,) = classifier.predict("good film", words=True)
    assert short["label"] == answer.label
    truth = [word.contributions[answer.label] for word in answer.words]
    assert [word["adds"] for word in short["words"]] == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("kind", ["numbers", "several labels"])
def test_labels_of_other_tasks(encoder_folder, kind):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value
    from test_words import KINDS, make

    classifier = make(encoder_folder, **KINDS[kind], id2label=None)
    texts = ["good film", "bad film", "good end", "dull film"] * 3
    if kind == "numbers":
        features, labels = {"label": Value("float64")}, [1.0, 2.0, 3.0, 4.0] * 3
    else:
        features, labels = {"label": Sequence(ClassLabel(names=classifier.label_names))}, [[0], [1, 2], [], [3]] * 3
        median = float(np.median(classifier.probabilities(texts)[:, 0]))
        classifier.model.config.thresholds = [median] + [2.0] * (len(classifier.label_names) - 1)
    features |= {"text": Value("string"), "example_id": Value("int64")}
    rows = Dataset.from_dict({"text": texts, "label": labels, "example_id": range(12)}, features=Features(features))
    found = deciding_words(classifier, rows, rows, None, rows=12)
    assert found and all(part["words"] == sorted(part["words"], key=lambda word: -word["adds"]) for part in found)
    answers = classifier.predict(texts_of(rows), words=True)
    if kind == "numbers":
        assert [part["label"] for part in found] == ["higher", "lower"]
        sums = {
            word: sum(w.contributions["LABEL_0"] for a in answers for w in a.words if w.text == word) / 12
            for word in ("film", "good")
        }
        told = {word["word"]: sign * word["adds"] for part, sign in zip(found, (1, -1)) for word in part["words"]}
        assert all(told[word] == pytest.approx(value, abs=1e-4) for word, value in sums.items())
    else:
        given = [answer.label for answer in answers]
        counts = {name: sum(name in names for names in given) for name in classifier.label_names}
        assert () in given  # whose words speak for a label that was not given
        assert {part["label"]: part["texts"] for part in found} == {name: n for name, n in counts.items() if n}
