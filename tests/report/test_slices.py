from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from datasets import ClassLabel, Dataset
from scipy.special import expit, softmax

from bertcls import BertClsForSequenceClassification, TextClassifier
from bertcls.metrics import fit_temperature, log_loss
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.findings import (
    _calibration,
    beside_values,
    confident_errors,
    confused_pairs,
    headline,
    run_probes,
    slice_scores,
    slices_of,
    sure_errors,
)
from bertcls.report.statistics import (
    accuracy_by_coverage,
    calibration_error,
    paired_p_value,
    score_with_interval,
)

# ------------------------------------------------------------------------------------------------ calibration


def test_the_temperature_that_made_the_logits_is_found_again():
    draw = np.random.default_rng(0)
    true = draw.normal(size=(20_000, 3))  # logits whose softmax the labels follow
    noise = draw.gumbel(size=true.shape)
    labels = (true + noise).argmax(-1)
    assert fit_temperature(true, labels) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(true * 2.5, labels) == pytest.approx(2.5, abs=0.1)
    assert fit_temperature(true / 4, labels) == pytest.approx(0.25, abs=0.02)


def test_a_fitted_temperature_never_makes_validation_less_likely_and_stays_in_bounds():
    draw = np.random.default_rng(1)
    for rows in (3, 30, 300):
        logits, labels = draw.normal(size=(rows, 2)) * 5, draw.integers(2, size=rows)
        temperature = fit_temperature(logits, labels)
        assert log_loss(logits / temperature, labels) <= log_loss(logits, labels) + 1e-9
        assert 0.2 <= temperature <= 10
    draw = np.random.default_rng(2)
    true = draw.normal(size=(20_000, 3))
    several = (draw.random(true.shape) < 1 / (1 + np.exp(-true))).astype(int)
    assert fit_temperature(true * 2.5, several) == pytest.approx(2.5, abs=0.1)
    sure = np.array([[9.0, 0.0]] * 5)
    assert 0.85 < fit_temperature(sure, np.zeros(5, int)) <= 1  # without an error there is little to fit to


def test_calibration_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.65, 0.35], [0.62, 0.38], [1.0, 0.0]])
    right = probabilities.argmax(-1) == np.array([0, 0, 0, 1, 0])
    error, bins = calibration_error(probabilities.max(-1), right, bins=10)
    assert [(row["low"], row["high"], row["rows"]) for row in bins] == [(0.6, 0.7, 2), (0.9, 1.0, 3)]
    assert [row["accuracy"] for row in bins] == [0.5, pytest.approx(2 / 3)]
    assert [row["confidence"] for row in bins] == pytest.approx([0.635, (0.95 + 0.95 + 1.0) / 3])
    assert error == pytest.approx((2 * 0.135 + 3 * (2.9 / 3 - 2 / 3)) / 5)


def test_coverage_trades_rows_for_accuracy():
    confidence = np.linspace(0.5, 1, 100)
    right = confidence > 0.7
    points = accuracy_by_coverage(confidence, right)
    assert points[0]["coverage"] == 1.0 and points[0]["accuracy"] == right.mean()
    assert points[-1] == points[-1] | {"coverage": 0.5, "accuracy": 1.0}
    assert all(point["low"] <= point["accuracy"] <= point["high"] for point in points)


# ------------------------------------------------------------------------------------------------ slices and errors


def test_slices_by_hand():
    right = np.array([1] * 60 + [0] * 40, dtype=bool)
    groups = {
        "negation": pd.Categorical(["without"] * 50 + ["with"] * 50, ["without", "with", "never"]),
        "even": pd.Categorical(["b", "a"] * 50),
    }
    rows = slice_scores(right, groups)
    assert [(row["slice"], row["group"], row["rows"], row["score"], row["outcome"]) for row in rows] == [
        ("negation", "without", 50, 1.0, "better"),
        ("negation", "with", 50, 0.2, "worse"),
        ("even", "a", 50, 0.6, "cannot tell"),
        ("even", "b", 50, 0.6, "cannot tell"),
    ]


@pytest.mark.slow
def test_noise_is_not_called_a_difference():
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        right = draw.random(400) < 0.8
        groups = {f"s{i}": pd.Categorical(draw.choice(["a", "b", "c"], 400)) for i in range(4)}
        found += any(row["outcome"] != "cannot tell" for row in slice_scores(right, groups))
    assert found <= 18  # 5 % of 200 and two standard errors


def test_texts_fall_into_their_slices():
    texts = [
        "not good",
        "isn't it good, but dull",
        "fine",
        "fine film",
        "a known film that is very fine",
        "剧情不好，但是",
    ]
    groups = slices_of(
        texts, [2, 9, 1, 2, 7, 7], [1, 1, 1, 1, 3, 9], ["a good fine film that is", "it dull but isn't"]
    )
    negated = [name == "with negation" for name in groups["negation"]]
    assert negated == [True, True, False, False, False, True]
    contrast = [name == "with a contrast word" for name in groups["contrast"]]
    assert contrast == [False, True, False, False, False, True]
    unseen = list(groups["words that train does not have"])
    assert unseen == ["one", "none", "none", "none", "two or more", "two or more"]
    assert list(groups["windows"]) == ["one"] * 4 + ["2 to 4", "5 and more"]
    assert "windows" not in slices_of(texts, [1] * 6, [1] * 6, texts)  # one group says nothing


def test_values_that_round_alike_are_one_group():
    texts = ["a b"] * 3 + ["a b " * 400] * 3
    tokens = [2, 2, 2, 800, 801, 802]  # 1, 1.001 and 1.002 pieces a word
    assert "word pieces a word" not in slices_of(texts, tokens, [1] * 6, texts)


def test_confused_pairs_by_hand():
    table = pd.DataFrame({"label": list("aaabbc"), "prediction": list("abbaba")})
    assert confused_pairs(table) == [
        {"label": "a", "prediction": "b", "rows": 2, "share": pytest.approx(2 / 3)},
        {"label": "b", "prediction": "a", "rows": 1, "share": 0.5},
        {"label": "c", "prediction": "a", "rows": 1, "share": 1.0},
    ]


def test_missed_and_given_labels_are_paired():
    labels, predictions = [["a", "b"], ["a"], ["b"], [], ["a"]], [["a", "c"], [], ["b"], ["c"], ["c"]]
    assert confused_pairs(pd.DataFrame({"label": labels, "prediction": predictions})) == [
        {"label": "a", "prediction": "c", "rows": 1, "share": pytest.approx(1 / 3)},
        {"label": "a", "prediction": None, "rows": 1, "share": pytest.approx(1 / 3)},
        {"label": "b", "prediction": "c", "rows": 1, "share": 0.5},
        {"label": None, "prediction": "c", "rows": 1, "share": 0.2},
    ]


def test_the_surest_wrong_decision_of_several_labels_and_the_furthest_number():
    table = pd.DataFrame(
        {
            "label": [["a"], ["a", "b"], [], ["b"]],
            "prediction": [["a", "b"], ["b"], ["a", "b"], ["b"]],
            "probability_a": [0.99, 0.02, 0.3, 0.0],
            "probability_b": [0.9, 0.99, 0.6, 1.0],
        }
    )
    found = sure_errors(table)
    assert found.index.tolist() == [1, 0, 2]  # by 0.98, 0.9 and 0.6
    assert found["decision"].tolist() == ["a", "b", "b"] and found["probability"].tolist() == [0.02, 0.9, 0.6]
    numbers = pd.DataFrame({"label": [1.0, 2.0, 3.0], "prediction": [1.5, 9.0, 3.0]})
    assert sure_errors(numbers).index.tolist() == [1, 0] and set(sure_errors(numbers)["probability"]) == {None}


def test_slices_of_numbers():
    values = np.array([1.0, 1.2, 0.8, 1.0, 5.0, 5.2, 4.8, 5.0, 1.1, 0.9])
    rows = slice_scores(values, {"size": pd.Categorical(["small"] * 4 + ["large"] * 4 + ["small"] * 2)})
    assert [(row["group"], row["rows"], round(row["score"], 6), row["outcome"]) for row in rows] == [
        ("large", 4, 5.0, "worse"),  # of an error less is better
        ("small", 6, 1.0, "better"),
    ]
    assert rows[0]["low"] == pytest.approx(5 - 3.18245 * 0.163299 / 2, rel=1e-5)  # t of 3 degrees of freedom
    assert slice_scores(np.array([1.0, 2.0]), {"x": pd.Categorical(["a", "b"])})[0]["outcome"] == "cannot tell"


def test_the_surest_errors_come_first_with_similar_training_texts(tokenizer):
    model = BertClsForSequenceClassification.from_encoder(
        str(TINY), from_scratch=True, max_length=32, overlap=6, id2label={0: "bad", 1: "good"}
    )
    table = pd.DataFrame(
        {
            "example_id": [7, 8, 9],
            "text": ["a dull film", "a fine film", "a great song"],
            "label": ["bad", "good", "bad"],
            "prediction": ["good", "good", "good"],
            "probability_bad": [0.3, 0.1, 0.1],
            "probability_good": [0.7, 0.9, 0.9],
        }
    )
    train = Dataset.from_dict({"text": ["a dull film", "a great song", "some rain"], "label": [0, 1, 1]})
    train = train.cast_column("label", ClassLabel(names=["bad", "good"])).add_column("example_id", [0, 1, 2])
    baseline = TfidfClassifier(2, min_df=1).fit(train["text"][:], [0, 1, 1])
    errors = confident_errors(table, TextClassifier(model, tokenizer), baseline, train, words=True)
    assert [error["example_id"] for error in errors] == [9, 7]
    assert errors[0]["similar"][0] == {"text": "a great song", "label": "good", "similarity": pytest.approx(1.0)}
    assert errors[0]["probabilities"] == {"bad": 0.1, "good": 0.9} and errors[0]["probability"] == 0.9
    assert errors[1]["pieces"] == tokenizer.tokenize("a dull film")
    right = table[table["label"] == "good"]
    assert confident_errors(right, TextClassifier(model, tokenizer), baseline, train, words=True) == []


def test_probes_are_asked_in_groups(tokenizer, tmp_path):
    model = BertClsForSequenceClassification.from_encoder(
        str(TINY), from_scratch=True, max_length=32, overlap=6, id2label={0: "bad", 1: "good"}
    )
    classifier = TextClassifier(model, tokenizer)
    path = tmp_path / "probes.txt"
    path.write_text("# comment\none text\ngood\tanother\n\n\nlast one\n", encoding="utf-8-sig")
    probes = run_probes(str(path), classifier)
    assert [(probe["group"], probe["text"], probe["expected"]) for probe in probes] == [
        (1, "one text", None),
        (1, "another", "good"),
        (2, "last one", None),
    ]
    assert [probe["prediction"] for probe in probes] == [
        a.label for a in classifier.predict(["one text", "another", "last one"])
    ]
    path.write_text("no label\ttext\n")  # a tab of the text itself
    assert [(probe["expected"], probe["text"]) for probe in run_probes(str(path), classifier)] == [
        (None, "no label\ttext")
    ]
    with pytest.raises(FileNotFoundError, match="none.txt"):
        run_probes(str(tmp_path / "none.txt"), classifier)


# ------------------------------------------------------------------------------------------------ baselines


def test_tfidf_learns_words_and_characters():
    texts, labels = ["good film", "fine film", "dull film", "bad film"] * 5, [1, 1, 0, 0] * 5
    model = TfidfClassifier(3).fit(texts, labels)
    probabilities = model.probabilities(["good", "bad"])
    assert probabilities.argmax(-1).tolist() == [1, 0] and probabilities[:, 2].tolist() == [0, 0]
    assert model.vectorizer.analyzer == "word"
    chinese = TfidfClassifier(2).fit(["电影很好", "电影很差"] * 5, [1, 0] * 5)
    assert chinese.vectorizer.analyzer == "char"
    assert chinese.probabilities(["好", "差"]).argmax(-1).tolist() == [1, 0]
    pairs = TfidfClassifier(2).fit([("a cat", "a cat"), ("a dog", "a cow")] * 4, [1, 0] * 4)
    assert pairs.similar([("a dog", "cow")], 1)[0][0][0] in (1, 3, 5, 7)
    several = TfidfClassifier(3, problem_type="multi_label_classification")
    several.fit(["good film", "dull film", "good song", "dull song"] * 5, np.array([[1, 0, 0], [0, 0, 0]] * 10))
    assert (several.probabilities(["good", "dull"]) > 0.5).tolist() == [[True, False, False], [False, False, False]]
    numbers = TfidfClassifier(1, problem_type="regression").fit(["good film", "dull film"] * 5, [9.0, 1.0] * 5)
    assert numbers.probabilities(["good", "dull"])[:, 0] == pytest.approx([9, 1], abs=2)
    with pytest.raises(ValueError, match="Found one class in 2 training texts"):
        TfidfClassifier(2).fit(["a", "b"], [1, 1])
    with pytest.raises(ValueError, match="Found no words to count in 2 training texts"):
        TfidfClassifier(2).fit(["!", "?"], [0, 1])


def test_the_headline_has_three_outcomes():
    right = np.array([1] * 90 + [0] * 10, dtype=bool)
    simple = {"majority": np.array([1] * 60 + [0] * 40, dtype=bool), "TF-IDF": right[::-1], "all": np.ones(100, bool)}
    beaten, equal, better = (beside_values(name, values, right) for name, values in simple.items())
    assert [row["outcome"] for row in (beaten, equal, better)] == ["better", "cannot tell", "worse"]
    findings = {"measure": "accuracy", "baselines": [beaten]}
    assert headline(0.9, findings, 100) == "The encoder (accuracy 0.90) is better than majority (0.60, p < 0.0001)."
    findings["baselines"].append(equal)
    assert headline(0.9, findings, 600) == (
        "The encoder (accuracy 0.900) cannot be told from TF-IDF (0.900, p = 1.00) and is better than majority "
        "(0.600, p < 0.0001)."
    )
    findings["baselines"].append(better)
    told = headline(0.9, findings, 100)
    assert told.startswith(
        "Warning: the encoder (accuracy 0.90) is worse than all (1.00, p = 0.0020) and cannot be told"
    )
    far, near = np.arange(1.0, 101.0), np.arange(1.0, 101.0) / 2
    assert (
        beside_values("ridge", near, far)["outcome"] == "worse"
        and beside_values("ridge", far, near)["outcome"] == "better"
    )
    told = headline(
        near.mean(), {"measure": "mean absolute error", "baselines": [beside_values("ridge", far, near)]}, 100
    )
    assert told.startswith("The encoder (mean absolute error 25.2) is better than ridge (50.5, p ")


@pytest.mark.slow
def test_a_permutation_of_pairs_finds_what_is_there_and_no_more():
    draw = np.random.default_rng(0)
    levels = [paired_p_value(*np.abs(draw.normal(size=(2, 12)))) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(levels) < 0.05) <= 0.09
    one = np.abs(draw.normal(size=4_000))
    assert paired_p_value(one, one + draw.normal(0.05, 0.5, 4_000)) < 0.001
    assert paired_p_value(one, one) == 1.0
    assert paired_p_value(one[:1], one[1:2]) == 1.0  # one row tells nothing
    few = draw.normal(size=10)
    means = [abs(np.mean(few * signs)) for signs in product([1, -1], repeat=10)]
    assert paired_p_value(few, np.zeros(10)) == pytest.approx(np.mean(np.array(means) >= abs(few.mean()) - 1e-12))
    many = draw.normal(0.05, 1, size=(2, 1_001))  # the border of the two ways of counting
    both = [paired_p_value(many[0, :size], many[1, :size]) for size in (1_000, 1_001)]
    assert both[0] == pytest.approx(both[1], abs=0.03)


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_the_error_without_the_temperature_is_that_of_the_raw_logits(kind):
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(200, 3)) * 8
    logits[:2] = [[800.0, -800.0, 0.0], [-800.0, 0.0, 800.0]]  # whose probabilities are 0 and 1
    if kind == "multi_label_classification":
        labels = (draw.random((200, 3)) < 0.5).astype(int)
        raw, probabilities = expit(logits), expit(logits / 2.5)
        expected = calibration_error(raw.ravel(), labels.ravel() == 1)[0]
    else:
        labels = draw.integers(3, size=200)
        raw, probabilities = softmax(logits, -1), softmax(logits / 2.5, -1)
        expected = calibration_error(raw.max(-1), raw.argmax(-1) == labels)[0]
    found = _calibration(probabilities, labels, 2.5)
    assert found["ece_before"] == pytest.approx(expected, abs=1e-6) and found["ece"] < found["ece_before"]


def test_one_distance_has_no_interval():
    assert score_with_interval(np.array([5.0])) == {"score": 5.0, "low": None, "high": None}
    rows = slice_scores(np.array([5.0, 1.0, 1.0]), {"x": pd.Categorical(["a", "b", "b"])})
    assert [(row["low"], row["outcome"]) for row in rows] == [(None, "cannot tell"), (1.0, "cannot tell")]
