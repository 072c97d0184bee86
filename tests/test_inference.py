import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bertcls import BertClsForSequenceClassification, TextClassifier, clean
from bertcls.hub import verify_saved

TEXTS = ["A dull film.", "good", "", "never dull, always good " * 40, "A lovely, lovely room!", "dull " * 300]


@pytest.fixture(scope="module")
def saved(encoder_folder, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(1)
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder,
        id2label={0: "bad", 1: "good"},
        cleaning=["strip_tags", "collapse_blanks"],
        max_length=32,
        overlap=6,
        windows_per_forward=8,
    )
    torch.nn.init.normal_(model.classifier.weight)  # so that answers differ visibly
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(saved) -> TextClassifier:
    return TextClassifier.from_pretrained(saved, device="cpu")


def test_a_text_and_a_list_give_the_same_answers_in_order(classifier):
    together = classifier.predict(TEXTS)
    assert len(together) == len(TEXTS)
    for text, prediction in zip(TEXTS, together):
        alone = classifier.predict(text)
        assert len(alone) == 1 and alone[0].label == prediction.label
        assert prediction.score == max(prediction.probabilities.values()) == prediction.probabilities[prediction.label]
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert list(prediction.probabilities) == ["bad", "good"]
        assert alone[0].probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
    assert len({round(prediction.score, 6) for prediction in together}) == len(TEXTS)


def test_windows_are_padded_to_others_of_their_length_not_to_those_of_their_text(classifier, monkeypatch):
    read, forward = [], classifier.model.forward

    def watched(input_ids, attention_mask, **inputs):
        read.append((input_ids.numel(), int(attention_mask.sum())))
        return forward(input_ids, attention_mask, **inputs)

    monkeypatch.setattr(classifier.model, "forward", watched)
    monkeypatch.setattr("bertcls.inference.TOKENS_PER_BATCH_CPU", 64)  # two windows of 32 tokens
    monkeypatch.setattr(classifier.collator, "pad_to_multiple_of", 1)  # 8 where there is a GPU
    texts = ["good " * 35] * 8  # a window of 32 tokens, and one of 13
    found = classifier.probabilities(texts)
    assert [sum(numbers) for numbers in zip(*read)] == [8 * (32 + 13)] * 2
    monkeypatch.undo()
    np.testing.assert_allclose(found, classifier.probabilities(texts[:1]).repeat(8, 0), rtol=0, atol=1e-5)


def test_one_text_and_other_sequences(classifier):
    assert classifier.logits("good film").shape == classifier.probabilities("good film").shape == (1, 2)
    assert classifier.predict(pd.Series(TEXTS)) == classifier.predict(TEXTS)


def test_multi_label_probabilities_are_sigmoids(classifier):
    classifier.model.config.problem_type = "multi_label_classification"
    try:
        expected = 1 / (1 + np.exp(-classifier.logits(TEXTS).astype(float)))
        np.testing.assert_allclose(classifier.probabilities(TEXTS), expected, atol=1e-5)
        names, threshold = classifier.label_names, float(expected[:, 0].max())
        classifier.model.config.thresholds = [threshold, 2.0]
        answers = classifier.predict(TEXTS)
        best = int(expected[:, 0].argmax())
        assert answers[best].label == (names[0],) and answers[best].score == pytest.approx(threshold)
        assert all(answer.label == () for i, answer in enumerate(answers) if i != best)  # none is a legal answer
        none = answers[best - 1]
        assert none.score == pytest.approx(1 - max(none.probabilities.values()))
        classifier.model.config.thresholds = None
        both = [tuple(name for name, value in zip(names, row) if value >= 0.5) for row in expected]
        assert [answer.label for answer in classifier.predict(TEXTS)] == both
    finally:
        classifier.model.config.problem_type = classifier.model.config.thresholds = None


def test_nothing_in_nothing_out(classifier):
    assert classifier.predict([]) == classifier.encode([], windows=True) == []
    assert classifier.logits([]).shape == (0, 2)


def test_an_empty_text_is_read_as_special_tokens_alone(classifier):
    ids = torch.tensor([[classifier.tokenizer.cls_token_id, classifier.tokenizer.sep_token_id]])
    np.testing.assert_allclose(classifier.logits([""]), classifier.model(ids).logits.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(classifier.logits(["  <br> "]), classifier.logits([""]), atol=1e-5)


def test_a_very_long_text(classifier):
    text = "A good film with a dull end. " * 3500
    assert len(text) > 100_000
    assert classifier.predict(text)[0].label in ("bad", "good")


def test_the_stored_cleaning_is_applied(classifier):
    np.testing.assert_allclose(classifier.logits(["good<br/>film"]), classifier.logits(["good film"]), atol=1e-5)


def test_temperature_acts_on_probabilities_alone(classifier):
    before, logits = classifier.probabilities(TEXTS), classifier.logits(TEXTS)
    classifier.model.config.temperature = 2.0
    try:
        after = classifier.probabilities(TEXTS)
        np.testing.assert_array_equal(classifier.logits(TEXTS), logits)
    finally:
        classifier.model.config.temperature = 1.0
    np.testing.assert_array_equal(after.argmax(1), before.argmax(1))
    assert (after.max(1) < before.max(1)).all()


@pytest.mark.parametrize("texts", [["fine", 3], [None]])
def test_what_is_not_a_string_is_refused(classifier, texts):
    with pytest.raises(TypeError, match="Text . is of type .*, expected a string"):
        classifier.predict(texts)


def test_half_a_character_is_refused(classifier):
    for answer in (classifier.predict, classifier.encode, classifier.logits):
        with pytest.raises(ValueError, match=r"Text 1 holds half of a character \(a lone surrogate\); expected whole"):
            answer(["fine \U0001f600", "\ud83d"])


def test_folders_that_cannot_answer_are_refused(saved, encoder_folder, tmp_path):
    with pytest.raises(ValueError, match="holds a model of type 'bert', expected 'bertcls'"):
        TextClassifier.from_pretrained(encoder_folder)
    with pytest.raises(FileNotFoundError, match="No model found at './nothing'"):
        TextClassifier.from_pretrained("./nothing")
    with pytest.raises(ValueError, match="Found backend='jax'; expected one of torch, onnx"):
        TextClassifier.from_pretrained(saved, backend="jax")


def test_missing_head_weights_are_refused(saved, tmp_path):
    weights = load_file(f"{saved}/model.safetensors")
    model = BertClsForSequenceClassification.from_pretrained(saved)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path)
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights classifier.weight, so its answers would be random"):
        TextClassifier.from_pretrained(str(tmp_path))


@pytest.mark.slow
def test_verify_saved_tells_a_changed_model(saved, classifier):
    assert verify_saved(saved, classifier, TEXTS).label_names == ["bad", "good"]
    model = BertClsForSequenceClassification.from_pretrained(saved)
    with torch.no_grad():
        model.classifier.bias += 1e-3
    with pytest.raises(ValueError, match="differs from the trained one by 0.001 in a logit"):
        verify_saved(saved, TextClassifier(model, classifier.tokenizer, device="cpu"), TEXTS)


@pytest.mark.slow
def test_answering_imports_neither_evaluate_nor_matplotlib():
    code = (
        "import sys, bertcls.inference; print([m for m in ('evaluate', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['sklearn']")  # transformers itself looks for scikit-learn


def test_windows_on_request_show_which_passage_decided(classifier):
    text = "<p>" + "A fine film &amp; never dull. " * 30
    plain, asked = classifier.predict(text)[0], classifier.predict(text, windows=True)[0]
    assert plain.windows is None and asked.probabilities == plain.probabilities
    cleaned = clean(text, classifier.model.config.cleaning)
    assert len(asked.windows) > 2 and asked.windows[0].start == 0 and asked.windows[-1].end == len(cleaned)
    for window in asked.windows:
        assert window.text == cleaned[window.start : window.end]
        alone = classifier.predict(window.text)[0]
        assert window.label == alone.label and window.score == pytest.approx(alone.score, abs=1e-5)
    if classifier.model.config.window_pooling == "mean":  # and a linear head: the mean of the windows' logits
        logits = np.log([list(window.probabilities.values()) for window in asked.windows])
        difference = np.log(list(asked.probabilities.values())) - logits.mean(0)
        np.testing.assert_allclose(difference - difference[0], 0, atol=1e-5)


def test_many_texts_are_read_in_slices(classifier, monkeypatch):
    monkeypatch.setattr("bertcls.inference.TEXTS_AT_A_TIME", 3)
    texts = [f"film {i} " * (i + 1) for i in range(8)]
    one_by_one = np.concatenate([classifier.logits(text) for text in texts])
    np.testing.assert_allclose(classifier.logits(texts), one_by_one, atol=1e-5)


@pytest.mark.slow
def test_windows_of_many_texts_stay_with_their_texts(classifier):
    texts = [f"film {i} " * (1 + 90 * (i % 3)) for i in range(7)]
    together, (logits, windows_of) = classifier.predict(texts, windows=True), classifier.logits_with_windows(texts)
    rows, windows_of = classifier.to_probabilities(logits), [*map(classifier.to_probabilities, windows_of)]
    assert len({len(answer.windows) for answer in together}) == 3
    np.testing.assert_allclose(rows, classifier.probabilities(texts), atol=1e-5)
    for text, answer, of_windows in zip(texts, together, windows_of):
        alone = classifier.predict(text, windows=True)[0]
        assert [(w.start, w.end, w.text) for w in answer.windows] == [(w.start, w.end, w.text) for w in alone.windows]
        for one, other, row in zip(answer.windows, alone.windows, of_windows, strict=True):
            assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-5)
            assert row.tolist() == pytest.approx(list(other.probabilities.values()), abs=1e-5)


def test_a_model_may_abstain(classifier):
    texts = ["A fine film.", "Never again.", "dull " * 400]
    sure = classifier.predict(texts)
    limit = sorted(answer.score for answer in sure)[1]
    asked = classifier.predict(texts, abstain_below=limit)
    assert [answer.label for answer in asked] == [a.label if a.score >= limit else None for a in sure]
    assert [answer.probabilities for answer in asked] == [answer.probabilities for answer in sure]
    with pytest.raises(ValueError, match="Found abstain_below=80; expected a probability"):
        classifier.predict(texts, abstain_below=80)
    assert None in [answer.label for answer in asked] and sum(answer.label is not None for answer in asked) >= 2
