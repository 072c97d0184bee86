import pytest
import torch
from conftest import TINY
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
    TokenizersBackend,
)

from bertcls import WindowCollator, load_tokenizer, tokenize_splits, tokenize_windows
from bertcls.text import STEPS
from bertcls.tokenization import check_window, describe_windows, encoder_max_length, explode_windows


@pytest.mark.parametrize("train_on", ["documents", "windows"])
def test_an_own_step_that_changed_is_applied_anew(tokenizer, monkeypatch, train_on):
    splits = DatasetDict(train=Dataset.from_dict({"text": ["good film", "dull film"], "label": [0, 1]}))
    found = []
    for word in ("never", "and"):
        monkeypatch.setitem(STEPS, "mine", lambda text, word=word: f"{text} {word}")
        train = tokenize_splits(splits, tokenizer, cleaning=["mine"], max_length=16, train_on=train_on)[0]["train"]
        found.append(train[0]["input_ids"][0][-2])
    assert found == tokenizer.convert_tokens_to_ids(["never", "and"])


def plain_ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(words=st.integers(0, 130), max_length=st.integers(4, 16), overlap=st.integers(0, 8))
def test_windows_lose_and_invent_no_token(words, max_length, overlap):
    tokenizer = load_tokenizer(str(TINY))
    overlap = min(overlap, max_length - 3)
    text = " ".join(["good", "dull", "film", "and", "never"][i % 5] for i in range(words))
    result = tokenize_windows({"text": [text]}, tokenizer=tokenizer, max_length=max_length, overlap=overlap)
    windows = result["input_ids"][0]
    assert all(window[0] == tokenizer.cls_token_id and window[-1] == tokenizer.sep_token_id for window in windows)
    assert all(len(window) <= max_length for window in windows)
    content = [window[1:-1] for window in windows]
    for before, after in zip(content, content[1:]):
        assert before[len(before) - overlap :] == after[:overlap]
    joined = content[0] + [token for window in content[1:] for token in window[overlap:]]
    assert joined == plain_ids(tokenizer, text)
    assert result["length"] == [sum(map(len, windows))]
    assert result["tokens"] == [len(joined)] and result["cut"] == [0]


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 40), second=st.integers(0, 80), max_length=st.integers(8, 24), overlap=st.integers(0, 8))
def test_windows_of_a_pair_repeat_the_first_text_and_lose_nothing_of_the_second(first, second, max_length, overlap):
    tokenizer = load_tokenizer(str(TINY))
    overlap = min(overlap, max_length - max_length // 2 - 4)
    one = " ".join(["good", "film"][i % 2] for i in range(first))
    other = " ".join(["dull", "and", "never"][i % 3] for i in range(second))
    options = {"tokenizer": tokenizer, "max_length": max_length, "overlap": overlap, "pair_truncation": "none"}
    result = tokenize_windows({"text": [one], "text_pair": [other]}, **options)
    limit = max(max_length // 2, max_length - 3 - second)  # both whole where they fit
    head = plain_ids(tokenizer, one)[:limit]
    content = []
    for ids, types in zip(result["input_ids"][0], result["token_type_ids"][0]):
        assert len(ids) <= max_length
        assert ids[: len(head) + 2] == [tokenizer.cls_token_id, *head, tokenizer.sep_token_id]
        assert types == [0] * (len(head) + 2) + [1] * (len(ids) - len(head) - 2)
        content.append(ids[len(head) + 2 : -1])
    joined = content[0] + [token for window in content[1:] for token in window[overlap:]]
    assert joined == plain_ids(tokenizer, other)
    assert result["tokens"] == [first + second] and result["cut"] == [max(first - limit, 0)]


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [("head", [*range(8)]), ("tail", [*range(22, 30)]), ("head_tail", [0, 1, *range(24, 30)])],
)
def test_truncation_keeps_one_window(tokenizer, truncation, kept):
    words = [letter for letter in "abcdefghijklmnopqrstuvwxyz0123"]
    text = " ".join(words)
    options = {"tokenizer": tokenizer, "max_length": 10, "truncation": truncation, "spans": True}
    result = tokenize_windows({"text": [text, "a b", ""]}, **options)
    ids = plain_ids(tokenizer, text)
    expected = [tokenizer.cls_token_id, *(ids[i] for i in kept), tokenizer.sep_token_id]
    assert result["input_ids"][0] == [expected]
    assert result["attention_mask"][0] == [[1] * 10] and result["token_type_ids"][0] == [[0] * 10]
    assert (
        result["input_ids"][1:]
        == tokenize_windows({"text": ["a b", ""]}, **options | {"truncation": "none"})["input_ids"]
    )
    assert result["tokens"] == [30, 2, 0] and result["cut"] == [22, 0, 0]
    assert result["spans"] == [[(2 * kept[0], 2 * kept[-1] + 1)], [(0, 3)], [(0, 0)]]
    with pytest.raises(ValueError, match="Found --truncation middle; expected none, head, tail, head_tail"):
        tokenize_windows({"text": ["a"]}, **options | {"truncation": "middle"})


@pytest.mark.parametrize(
    ("truncation", "first", "second", "kept"),
    [
        ("longest_first", 8, 8, (3, 4)),
        ("only_first", 8, 5, (2, 5)),
        ("only_second", 5, 8, (5, 2)),
        ("only_first", 8, 8, (3, 4)),  # the second alone fills the window
        ("only_second", 2, 3, (2, 3)),
    ],
)
def test_pairs_cut_to_one_window(tokenizer, truncation, first, second, kept):
    batch = {"text": ["good " * first, "a"], "text_pair": ["dull " * second, "b"]}
    result = tokenize_windows(batch, tokenizer=tokenizer, max_length=10, overlap=0, pair_truncation=truncation)
    (ids,), (types,) = result["input_ids"][0], result["token_type_ids"][0]
    good, dull = (plain_ids(tokenizer, word)[0] for word in ("good", "dull"))
    assert abs(ids.count(good) - kept[0]) <= 1 and ids.count(good) + ids.count(dull) == sum(kept)
    if truncation != "longest_first" and kept != (3, 4):
        assert (ids.count(good), ids.count(dull)) == kept
    assert len(types) == len(ids) <= 10
    assert result["cut"] == [first + second - sum(kept), 0] and result["tokens"] == [first + second, 2]


@pytest.mark.parametrize("max_length", [16, 33, 64])
def test_a_pair_that_fits_is_one_whole_window(tokenizer, max_length):
    for first in range(max_length - 3):
        batch = {"text": ["good " * first], "text_pair": ["dull " * (max_length - 3 - first)]}
        result = tokenize_windows(batch, tokenizer=tokenizer, max_length=max_length, pair_truncation="none")
        assert result["cut"] == [0] and [len(ids) for ids in result["input_ids"][0]] == [max_length]


def test_spans_of_a_cut_pair_end_where_reading_ends(tokenizer):
    batch = {"text": ["good"], "text_pair": ["dull film " * 20]}
    options = {"tokenizer": tokenizer, "max_length": 14, "overlap": 0, "spans": True}
    assert tokenize_windows(batch, pair_truncation="only_second", **options)["spans"] == [[(0, 49)]]  # ten words
    windows = tokenize_windows(batch, pair_truncation="none", **options)["spans"][0]
    assert windows[0] == (0, 49) and windows[-1][1] == 199


def test_byte_level_pairs_keep_their_limit():
    """Tokens of bytes: a first text that is cut within a character has other tokens than it had."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(
        ["low lower lowest new newer"] * 9, trainers.BpeTrainer(special_tokens=["<s>", "</s>", "<pad>"])
    )
    trained.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = TokenizersBackend(tokenizer_object=trained, cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    tokenizer.model_max_length = 512
    for first in ("x" + "😀" * 100, "lowest " * 40, "newer" * 50):
        batch = {"text": [first], "text_pair": ["lower new " * 40]}
        result = tokenize_windows(batch, tokenizer=tokenizer, max_length=64, overlap=10, pair_truncation="none")
        assert all(len(ids) <= 64 for ids in result["input_ids"][0])


@pytest.mark.parametrize(
    ("columns", "options"),
    [(("text", "text_pair"), {"truncation": "head"}), (("text",), {"pair_truncation": "only_first"})],
)
def test_cuts_that_mean_nothing_are_refused(tokenizer, columns, options):
    with pytest.raises(ValueError, match="expected the first for texts and the second for pairs"):
        tokenize_windows({name: ["a"] for name in columns}, tokenizer=tokenizer, max_length=10, **options)


def test_an_unknown_pair_truncation(tokenizer):
    with pytest.raises(ValueError, match="Found --pair_truncation only_both; expected none, longest_first"):
        tokenize_windows(
            {"text": ["a"], "text_pair": ["b"]}, tokenizer=tokenizer, max_length=10, pair_truncation="only_both"
        )


def test_spans_cover_the_text(tokenizer):
    text = "A fine film, and never dull. " * 9
    result = tokenize_windows({"text": [text, ""]}, tokenizer=tokenizer, max_length=16, overlap=4, spans=True)
    spans = result["spans"][0]
    assert len(spans) == len(result["input_ids"][0]) and result["spans"][1] == [(0, 0)]
    assert spans[0][0] == 0 and spans[-1][1] == len(text.rstrip())
    assert all(start < before[1] for before, (start, _) in zip(spans, spans[1:]))  # neighbours overlap
    for (start, end), ids in zip(spans, result["input_ids"][0]):
        assert plain_ids(tokenizer, text[start:end]) == ids[1:-1]


def test_windows_as_examples(tokenizer):
    rows = Dataset.from_dict({"text": ["a film", "dull " * 30], "label": [0, 1], "example_id": [7, 8]})
    kwargs = {"tokenizer": tokenizer, "max_length": 16, "overlap": 2}
    tokenized = rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=kwargs)
    windows = tokenized.map(explode_windows, batched=True)
    assert windows["example_id"][:] == [7, 8, 8, 8] and windows["label"][:] == [0, 1, 1, 1]
    assert [ids for document in tokenized["input_ids"][:] for ids in document] == [
        ids for document in windows["input_ids"][:] for ids in document
    ]
    assert windows["length"][:] == [4, 16, 16, 8]
    said = describe_windows(tokenized, max_length=16)
    assert said.startswith("1 of 2 texts are longer than a window of 16 tokens, the longest has 30; none is cut;")
    assert said.endswith("one window a text would cut 50.0 % of the tokens")  # 16 of 32


def test_a_batch_keeps_its_texts_apart(tokenizer):
    texts = ["", "a good film", "dull " * 50, "never again"]
    result = tokenize_windows({"text": texts}, tokenizer=tokenizer, max_length=10, overlap=2)
    for text, windows in zip(texts, result["input_ids"]):
        assert (
            windows
            == tokenize_windows({"text": [text]}, tokenizer=tokenizer, max_length=10, overlap=2)["input_ids"][0]
        )
    assert list(map(len, result["input_ids"])) == [1, 1, 8, 1]
    assert result["input_ids"][0] == [[tokenizer.cls_token_id, tokenizer.sep_token_id]]
    capped = tokenize_windows({"text": texts}, tokenizer=tokenizer, max_length=10, overlap=2, max_windows=2)
    assert capped["length"] == [2, 5, 20, 4]


def test_map_leaves_exactly_the_columns_of_the_contract(tokenizer):
    rows = Dataset.from_dict({"text": ["a film", "dull " * 30], "label": [0, 1], "example_id": [7, 8]})
    tokenized = rows.map(
        tokenize_windows, batched=True, remove_columns="text", fn_kwargs={"tokenizer": tokenizer, "max_length": 16}
    )
    expected = {"input_ids", "attention_mask", "token_type_ids", "label", "example_id", "length", "tokens", "cut"}
    assert set(tokenized.column_names) == expected


@pytest.mark.parametrize(
    ("max_length", "overlap", "message"),
    [
        (129, None, "Found --max_length 129; the encoder takes at most 128 tokens"),
        (2, None, "expected more than the 2 tokens that stand in every"),
        (16, 14, "Found --overlap 14 with --max_length 16; expected 0 to 13"),
        (16, -1, "expected 0 to 13"),
    ],
)
def test_a_wrong_window_is_refused(tokenizer, max_length, overlap, message):
    with pytest.raises(ValueError, match=message):
        check_window(tokenizer, max_length=max_length, overlap=overlap)
    with pytest.raises(ValueError, match=message):
        tokenize_windows({"text": ["x"]}, tokenizer=tokenizer, max_length=max_length, overlap=overlap)


def test_the_default_overlap_is_a_fifth(tokenizer):
    assert check_window(tokenizer, max_length=100, overlap=None) == 5
    assert check_window(tokenizer, max_length=3, overlap=None) == 0


@pytest.mark.parametrize("multiple, seq_len", [(1, 20), (8, 24)])
def test_collator_pads_to_the_longest_window(tokenizer, multiple, seq_len):
    texts = ["a good film", "dull " * 30]
    rows = tokenize_windows({"text": texts}, tokenizer=tokenizer, max_length=20, overlap=4)
    features = [
        {"label": i, "example_id": 10 + i, **{name: column[i] for name, column in rows.items()}} for i in range(2)
    ]
    collator = WindowCollator(tokenizer)
    collator.pad_to_multiple_of = multiple
    batch = collator(features)
    assert list(batch)[0] == "labels"
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    assert batch["example_ids"].tolist() == [10, 11]
    assert batch["window_example"].tolist() == [0, 1, 1]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, seq_len)
    assert batch["attention_mask"].sum(1).tolist() == [len(w) for row in rows["input_ids"] for w in row]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert batch["input_ids"][0, :5].tolist() == rows["input_ids"][0][0]


def test_collator_never_pads_beyond_the_encoder(tokenizer):
    collator = WindowCollator(tokenizer)
    collator.pad_to_multiple_of = 8
    collator.max_length = 10
    assert collator([{"input_ids": [[2] * 9], "attention_mask": [[1] * 9]}])["input_ids"].shape == (1, 10)


@pytest.mark.parametrize(
    ("labels", "dtype"), [([1, 0], torch.int64), ([0.5, 2.0], torch.float32), ([[1, 0], [1, 1]], torch.float32)]
)
def test_collator_label_types(tokenizer, labels, dtype):
    features = [{"label": label, "input_ids": [[2, 3]], "attention_mask": [[1, 1]]} for label in labels]
    assert WindowCollator(tokenizer)(features)["labels"].dtype == dtype


def test_numbers_of_minus_100_count_like_others(tokenizer):
    features = [{"label": label, "input_ids": [[2, 3]], "attention_mask": [[1, 1]]} for label in (-100.0, 20.0)]
    labels = WindowCollator(tokenizer)(features)["labels"]
    assert (labels != -100).all() and labels.tolist() == pytest.approx([-100, 20], abs=1e-3)  # Trainer leaves -100 out


def test_limits_of_encoders():
    small = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "vocab_size": 50,
    }
    assert encoder_max_length(AutoConfig.from_pretrained(TINY)) == 128
    assert encoder_max_length(RobertaConfig(max_position_embeddings=66, pad_token_id=1, **small)) == 64
    assert encoder_max_length(DebertaV2Config(max_position_embeddings=64, **small)) == 64
    assert encoder_max_length(ModernBertConfig(max_position_embeddings=64, pad_token_id=0, **small)) == 64
    distil = DistilBertConfig(vocab_size=50, dim=32, n_heads=2, hidden_dim=32, n_layers=1, max_position_embeddings=64)
    assert encoder_max_length(distil) == 64


def test_a_missing_model_is_named():
    with pytest.raises(FileNotFoundError, match="No model found at './nothing'; expected a Hub id or a folder"):
        load_tokenizer("./nothing")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    ModernBertConfig().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="No tokenizer found at"):
        load_tokenizer(str(tmp_path))


def test_a_sentencepiece_model_needs_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr("bertcls.tokenization.is_sentencepiece_available", lambda: False)
    DebertaV2Config().save_pretrained(tmp_path)
    (tmp_path / "spm.model").write_bytes(b"no model")  # as transformers sees any one without the packages
    with pytest.raises(ValueError, match="Found a SentencePiece model .* pip install sentencepiece protobuf"):
        load_tokenizer(str(tmp_path))
