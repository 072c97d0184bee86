import pytest
import torch
from conftest import TINY
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, DebertaV2Config, DistilBertConfig, ModernBertConfig, RobertaConfig

from bertcls import WindowCollator, check_window, encoder_max_length, load_tokenizer, tokenize_windows


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
    expected = {"input_ids", "attention_mask", "token_type_ids", "label", "example_id", "length"}
    assert set(tokenized.column_names) == expected


@pytest.mark.parametrize(
    ("max_length", "overlap", "message"),
    [
        (129, None, "Found --max_length 129; the encoder takes at most 128 tokens"),
        (2, None, "expected more than the 2 special tokens"),
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
    assert check_window(tokenizer, max_length=100, overlap=None) == 20
    assert check_window(tokenizer, max_length=3, overlap=None) == 0


def test_collator_pads_to_the_longest_window(tokenizer):
    texts = ["a good film", "dull " * 30]
    rows = tokenize_windows({"text": texts}, tokenizer=tokenizer, max_length=20, overlap=4)
    features = [
        {"label": i, "example_id": 10 + i, **{name: column[i] for name, column in rows.items()}} for i in range(2)
    ]
    batch = WindowCollator(tokenizer)(features)
    assert list(batch)[0] == "labels"
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    assert batch["example_ids"].tolist() == [10, 11]
    assert batch["window_example"].tolist() == [0, 1, 1]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 24)
    assert batch["attention_mask"].sum(1).tolist() == [len(w) for row in rows["input_ids"] for w in row]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert batch["input_ids"][0, :5].tolist() == rows["input_ids"][0][0]


def test_collator_never_pads_beyond_the_encoder(tokenizer):
    collator = WindowCollator(tokenizer)
    collator.max_length = 10
    assert collator([{"input_ids": [[2] * 9], "attention_mask": [[1] * 9]}])["input_ids"].shape == (1, 10)


@pytest.mark.parametrize(
    ("labels", "dtype"), [([1, 0], torch.int64), ([0.5, 2.0], torch.float32), ([[1, 0], [1, 1]], torch.float32)]
)
def test_collator_label_types(tokenizer, labels, dtype):
    features = [{"label": label, "input_ids": [[2, 3]], "attention_mask": [[1, 1]]} for label in labels]
    assert WindowCollator(tokenizer)(features)["labels"].dtype == dtype


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
    with pytest.raises(FileNotFoundError, match="No tokenizer found at './nothing'; expected a Hub id or a folder"):
        load_tokenizer("./nothing")
