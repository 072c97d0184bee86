"""The words that decided: spans in the text as it came, sums over windows, and what a planted word shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcls import BertClsForSequenceClassification, TextClassifier, load_tokenizer
from bertcls.report.deciding import deciding_words, words_of_texts
from bertcls.text import STEPS, clean, word_spans
from bertcls.words import _held, _token_pushes, spans_before_cleaning

CLEANING = ["strip_tags", "unescape_entities", "collapse_blanks"]
KINDS = {
    "one label": {"num_labels": 3},
    "votes": {"num_labels": 3, "window_pooling": "vote"},
    "several labels": {"num_labels": 4, "problem_type": "multi_label_classification", "window_pooling": "max"},
    "numbers": {"num_labels": 1, "problem_type": "regression"},
    "pairs": {"num_labels": 2, "pair_truncation": "none"},
}
# no two windows of the long one are equal: which of them a maximum takes is up to the last bits
LONG = " ".join("good film a fine end it is bad very".split()[number * number % 83 % 9] for number in range(90))
TEXTS = ["A <b>very</b> good film &amp; a fine end, isn&#39;t it?", "", "很好", LONG, "It is bad."]


def make(encoder_folder, **options) -> TextClassifier:
    torch.manual_seed(0)
    options = {"max_length": 24, "overlap": 6, "cleaning": CLEANING} | options
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, **options)
    with torch.no_grad():
        model.classifier.weight.normal_()
    return TextClassifier(model, load_tokenizer(encoder_folder), device="cpu")


@pytest.fixture(params=KINDS, scope="module")
def explained(request, encoder_folder):
    classifier = make(encoder_folder, **KINDS[request.param])
    texts = [(text, "the end") for text in TEXTS] if request.param == "pairs" else TEXTS
    return classifier, texts, classifier.predict(texts, words=True, windows=True)


def test_spans_cut_the_raw_text_where_they_say(explained):
    classifier, texts, answers = explained
    for text, answer in zip(texts, answers):
        for word in answer.words:
            raw = text if isinstance(text, str) else text[word.second]
            assert raw[word.start : word.end] == word.text and not word.cleaned
    assert [word.text for word in answers[0].words if not word.second][-3:] == ["isn&#39;t", "it", "?"]


def test_a_batch_gives_what_each_text_alone_gives(explained):
    classifier, texts, answers = explained
    for text, answer in zip(texts, answers):
        (alone,) = classifier.predict(text, words=True)
        assert [word.text for word in alone.words] == [word.text for word in answer.words]
        for one, other in zip(alone.words, answer.words):
            assert one.contributions == pytest.approx(other.contributions, rel=1e-3, abs=1e-5)


def test_words_speak_for_the_labels_that_are_given(explained):
    classifier, texts, answers = explained
    kind = classifier.model.config.problem_type
    for answer in answers:
        if kind == "multi_label_classification":
            given = set(answer.label) or {max(answer.probabilities, key=answer.probabilities.get)}
        else:
            given = {classifier.label_names[0]} if kind == "regression" else {answer.label}
        assert all(word.contributions.keys() == given for word in answer.words)
    if classifier.model.config.pair_truncation is None:
        assert answers[1].words == ()


def test_a_word_in_two_windows_is_told_once_with_the_sum_of_both(encoder_folder):
    classifier = make(encoder_folder, num_labels=1, problem_type="regression")
    text = " ".join(["good", "bad", "film", "end"] * 12)
    (answer,) = classifier.predict(text, words=True)
    assert [word.start for word in answer.words] == [start for start, _ in word_spans(text)]
    (one,) = classifier.encode(text, words=True)
    windows, weight = one.size[0], classifier.model.classifier.weight.detach()
    assert windows > 2
    total = 0.0  # of a linear head on the mean of windows: the sum over windows of what their tokens add
    for row in range(windows):
        inputs = {name: torch.tensor([values[row]]) for name, values in one.columns.items()}
        pushes = _token_pushes(classifier.model, inputs, weight[None] / windows)[0, 0]
        total += pushes[[text_number == 0 for text_number, _, _ in one.places[row]]].sum()
    assert sum(word.contributions["LABEL_0"] for word in answer.words) == pytest.approx(total, abs=1e-4)


def test_a_held_encoder_is_left_as_it_was(encoder_folder):
    classifier = make(encoder_folder, num_labels=2)
    before = classifier.logits(TEXTS)
    classifier.predict(TEXTS, words=True)
    np.testing.assert_array_equal(classifier.logits(TEXTS), before)
    with pytest.raises(RuntimeError, match="made up"), _held(classifier.model):
        raise RuntimeError("made up")
    assert classifier.model.encoder.config._attn_implementation == "sdpa"
    assert classifier.model.config.normalize is False
    assert not any(module._forward_hooks for module in classifier.model.modules())
    np.testing.assert_array_equal(classifier.logits(TEXTS), before)


def test_what_a_word_adds_is_what_its_token_is_worth_to_a_linear_model(encoder_folder):
    """Without layers between, what a word adds is exact: the mean of embeddings after a layer norm that is held."""
    classifier = make(encoder_folder, num_labels=2, pooling="mean")
    classifier.model.encoder.encoder.layer = torch.nn.ModuleList()
    (answer,) = classifier.predict("good bad film", words=True)
    (one,) = classifier.encode("good bad film")
    inputs = {name: torch.tensor(values) for name, values in one.columns.items()}
    embeddings = classifier.model.encoder.embeddings
    plain = embeddings.word_embeddings(inputs["input_ids"])[0].detach()
    norm = embeddings.LayerNorm
    whole = plain + embeddings.position_embeddings.weight[: len(plain)] + embeddings.token_type_embeddings.weight[0]
    scale = (whole.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    shares = (plain - plain.mean(-1, keepdim=True)) / scale * norm.weight / len(plain)  # of the mean vector
    chosen = classifier.label_names.index(answer.label)
    weight = classifier.model.classifier.weight
    expected = shares @ (weight[chosen] - weight[1 - chosen])
    found = [word.contributions[answer.label] for word in answer.words]
    np.testing.assert_allclose(found, expected.detach().numpy()[1:-1], atol=1e-5)


def test_normalized_vectors_are_held_at_their_lengths(encoder_folder):
    classifier = make(encoder_folder, num_labels=1, problem_type="regression")
    classifier.model.config.normalize = True
    (answer,) = classifier.predict("good bad film", words=True)
    assert classifier.model.config.normalize
    (one,) = classifier.encode("good bad film", words=True)
    inputs = {name: torch.tensor(values) for name, values in one.columns.items()}
    classifier.model.config.normalize = False
    length = classifier.model.encode_windows(inputs).norm()
    weight = classifier.model.classifier.weight.detach()
    plain = _token_pushes(classifier.model, inputs, weight[None])[0, 0]
    expected = plain[1:-1] * weight.shape[1] ** 0.5 / length.item()
    found = [word.contributions["LABEL_0"] for word in answer.words]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "raw, steps, found",
    [
        ("A<br/>fish &amp; chips", CLEANING, ["A", "fish", "&amp;", "chips"]),
        ("see https://a.b/c?d=e now", ["mask_urls"], ["see", "https://a.b/c?d=e", "now"]),
        ("fish&amp;chips &lt;b&gt; it&#39;s", CLEANING, ["fish", "&amp;", "chips", "&lt;", "b", "&gt;", "it&#39;s"]),
        ("<b>bold</b>  Ｗｉｆｉ", ["nfkc"], ["<", "b", ">", "bold", "<", "/", "b", ">", "Ｗｉｆｉ"]),
        ("<i>i</i> na&iuml;ve <b>bo</b>ld", CLEANING, ["i", "na&iuml;ve", "bo", "ld"]),
        ("Ｗｉｆｉ１０％ ist ﬁne", ["nfkc", "lower_case"], ["Ｗｉｆｉ１０", "％", "ist", "ﬁne"]),
        ("From: me\nSubject: x\n\nHello  world\n> q\nme", ["drop_email_headers", "drop_quoted_lines"], None),
        ("नमस्ते दुनिया สวัสดี", [], ["नमस्ते", "दुनिया", "ส", "วั", "ส", "ดี"]),
    ],
)
def test_spans_are_followed_through_cleaning(raw, steps, found):
    cleaned = clean(raw, steps)
    spans = spans_before_cleaning(raw, cleaned, word_spans(cleaned))
    assert [raw[start:end] for start, end in spans] == (found or ["Hello", "world", "me"])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.lists(st.sampled_from(sorted(STEPS)), max_size=3, unique=True))
def test_any_text_and_any_cleaning_give_spans_within_it_or_none(raw, steps):
    cleaned = clean(raw, steps)
    spans = word_spans(cleaned)
    assert all(cleaned[start:end].strip() for start, end in spans)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:]))
    for start, end in spans_before_cleaning(raw, cleaned, spans) or ():
        assert 0 <= start < end <= len(raw)


def test_an_escaped_number_without_end_is_a_word():
    raw = f"bad  &#{'9' * 5000}; film"
    assert spans_before_cleaning(raw, clean(raw, ["collapse_blanks"]), [(0, 3)]) == [(0, 3)]


def test_long_texts_are_followed_in_bounded_time():
    raw = "<p>" + "the cat sat on a mat, &amp; so. " * 3000
    cleaned = clean(raw, CLEANING)
    spans = word_spans(cleaned)
    assert spans_before_cleaning(raw, cleaned, spans) is None  # too much work
    raw = "".join(f"<p>film {row} was not the <i>best</i> of its year &amp; kind.<br /><br />" for row in range(100))
    cleaned = clean(raw, CLEANING)
    spans = spans_before_cleaning(raw, cleaned, word_spans(cleaned))
    assert [raw[start:end] for start, end in spans[:8]] == ["film", "0", "was", "not", "the", "best", "of", "its"]
    assert len(spans) == 1200 and all(raw[start - 1] != "<" for start, _ in spans)


def test_an_encoder_without_an_embedding_of_tokens_tells_no_words(encoder_folder, monkeypatch):
    classifier = make(encoder_folder, num_labels=2)

    def missing(module):
        raise NotImplementedError("made up")

    monkeypatch.setattr(type(classifier.model.encoder), "get_input_embeddings", missing)
    for texts in ("good", []):
        with pytest.raises(ValueError, match="Found words=True with bert, which tells no words; expected False"):
            classifier.predict(texts, words=True)
    rows = Dataset.from_dict({"text": ["good"]})
    assert deciding_words(classifier, rows, rows, None, rows=1) == [] and words_of_texts(classifier, ["good"]) == [{}]


def test_a_token_that_spans_several_characters_is_shared(encoder_folder, monkeypatch):
    classifier = make(encoder_folder, num_labels=1, problem_type="regression")
    (one,) = classifier.encode("very", words=True)
    merged = replace(
        one, text="\u5f88\u597d", places=[[(0, 0, 2) if place[0] == 0 else place for place in one.places[0]]]
    )
    first, second = classifier.predict_encoded([merged])[0].words
    assert (first.text, second.text) == ("\u5f88", "\u597d") and first.contributions == second.contributions
    (whole,) = classifier.predict("very", words=True)[0].words
    assert 2 * first.contributions["LABEL_0"] == pytest.approx(whole.contributions["LABEL_0"], abs=1e-5)


@pytest.mark.parametrize(
    "raw, cleaned, word, place",
    [
        ("这部电影 很好看 ", "这部电影 很好看", "看", (7, 8)),
        ("film <b>很好</b>", "film 很好", "好", (9, 10)),
        ("价格１００元", "价格100元", "100", (2, 5)),
        ("ดี <i>มาก</i>", "ดี มาก", "มา", None),
    ],
)
def test_words_of_scripts_without_blanks_are_placed_where_cleaning_changed_others(raw, cleaned, word, place):
    spans = word_spans(cleaned)
    found = spans_before_cleaning(raw, cleaned, spans)
    assert found is not None
    assert place is None or found[[cleaned[a:b] for a, b in spans].index(word)] == place
