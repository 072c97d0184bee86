import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SAMPLE, real_path
from datasets import ClassLabel, Dataset, DatasetDict, List, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from bertcls import arrange_splits, load_splits, tokenize_windows
from bertcls.audit import audit_splits
from bertcls.data import columns
from bertcls.data.labels import label_shares
from bertcls.data.splits import draw_rows, find_within, hold_out_whole_texts, split_dataset
from bertcls.layout import DRAWN
from bertcls.report.scores import answer_table
from bertcls.text import comparison_key


def write(folder: Path, **splits: list[dict]) -> str:
    """A data folder in the Hub's layout."""
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    return str(folder)


ROWS = [{"text": f"text {i}", "label": ["bad", "good"][i % 2]} for i in range(10)]


def test_sample_has_the_promised_form():
    splits = load_splits(str(SAMPLE))
    assert list(splits) == ["train", "validation", "test"]
    assert 600 <= len(splits["train"]) <= 1000 and len(splits["test"]) >= 420
    assert splits["train"].column_names == ["text", "label", "example_id"]
    assert splits["train"].features["label"].names == ["negative", "positive"]
    ids = [i for split in splits.values() for i in split["example_id"][:]]
    assert ids == list(range(len(ids)))
    assert label_shares(splits["test"]) == {"negative": 0.5, "positive": 0.5}
    texts = [comparison_key(text) for split in splits.values() for text in split["text"][:]]
    assert len(set(texts)) == len(texts)


def test_labels_keep_their_names_in_natural_order(tmp_path):
    rows = [{"text": "x", "label": f"class {i}"} for i in (10, 2, 1)] * 2
    assert load_splits(write(tmp_path, train=rows))["train"].features["label"].names == [
        "class 1",
        "class 2",
        "class 10",
    ]


def test_whole_numbers_become_classes(tmp_path):
    split = load_splits(write(tmp_path, train=[{"text": "x", "label": i} for i in (3, 1, 2, 1)]))["train"]
    assert split.features["label"].names == ["1", "2", "3"]
    assert split["label"][:] == [2, 0, 1, 0]


def test_lists_of_labels_called_0_and_1_are_no_vectors(tmp_path):
    rows = [{"text": "x", "label": labels} for labels in (["0", "1"], ["1"], [], ["0"])]
    split = load_splits(write(tmp_path, train=rows))["train"]
    assert split["label"][:] == [[0, 1], [1], [], [0]]


def test_csv(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text('body,topic\n"Good, and cheap",sport\nNone of it,news\n')
    splits = load_splits(str(tmp_path), text_column="body", label_column="topic")
    assert splits["train"].features["text"].dtype == "string"
    assert splits["train"]["text"][:] == ["Good, and cheap", "None of it"]
    assert splits["train"].features["label"].names == ["news", "sport"]


@pytest.mark.parametrize("module", ["text.py", "tokenization.py", "masking.py"])
def test_cached_maps_are_found_again_and_see_an_edit(module, tmp_path, monkeypatch, tokenizer):
    folder = write(tmp_path, train=ROWS)

    def cleaned():
        kwargs = {"tokenizer": tokenizer, "max_length": 16}
        return load_splits(folder)["train"].map(tokenize_windows, batched=True, fn_kwargs=kwargs)

    first, again = cleaned(), cleaned()
    assert first.cache_files == again.cache_files and first.cache_files
    stamps = [Path(file["filename"]).stat().st_mtime_ns for file in again.cache_files]
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# edited" if path.name == module else b""))
    edited = cleaned()
    assert edited.cache_files[-1] != first.cache_files[-1]
    assert [Path(file["filename"]).stat().st_mtime_ns for file in first.cache_files] == stamps


def test_options_of_a_csv_are_refused_with_other_files(tmp_path):
    frame = pd.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "train.parquet")
    for options in ({"delimiter": ";"}, {"encoding": "latin-1"}):
        with pytest.raises(ValueError, match=f"Found --{[*options][0]} with .*train.parquet; expected a csv"):
            load_splits(train_file=str(tmp_path / "train.parquet"), **options)
        with pytest.raises(ValueError, match=f"Found --{[*options][0]} with the data set; expected a csv"):
            load_splits(DatasetDict(train=Dataset.from_pandas(frame)), **options)
    hidden = frame.assign(label="")
    frame.to_csv(tmp_path / "train.csv", index=False)
    hidden.to_csv(tmp_path / "test.csv", index=False)
    files = {f"{name}_file": str(tmp_path / f"{name}.csv") for name in ("train", "test")}
    with pytest.raises(ValueError, match="labels of the test split .* are missing or -1; expected some to report by"):
        load_splits(**files)


def test_hidden_test_labels_leave_the_split_out(tmp_path):
    hidden = [{"text": "x", "label": "-1"}] * 3
    assert list(load_splits(write(tmp_path, train=ROWS, validation=ROWS, test=hidden))) == ["train", "validation"]


def test_an_edited_file_is_read_again(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.jsonl}\n---\n"
    )
    assert len(load_splits(write(tmp_path, train=ROWS))["train"]) == 10
    assert len(load_splits(write(tmp_path, train=ROWS[:6]))["train"]) == 6


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": ROWS}, {"text_column": "body"}, "Found the columns text, label in the data; expected body."),
        ({"train": ROWS}, {"label_column": "topic"}, "expected topic. Name the right one with --label_column"),
        ({"train": [{"words": "x", "label": 1}]}, {}, "Found the columns words, label"),
        (
            {"train": ROWS, "validation": [{"text": "x", "label": "fine"}]},
            {},
            "labels fine in validation; expected one of bad",
        ),
        ({"train": [*ROWS, {"text": "x", "label": "-1"}]}, {}, "1 rows without a text .* first at line 11 of"),
        ({"train": [*ROWS, {"text": "x", "label": None}]}, {}, "Found 1 rows without a text or label"),
        ({"train": [{**row, "text": 3} for row in ROWS]}, {}, "holds int64, expected strings"),
        ({"train": [*ROWS, {"text": None, "label": "bad"}]}, {}, "1 rows without a text .* first at line 11 of"),
        ({"test": ROWS}, {}, "expected one named train"),
    ],
)
def test_bad_data_is_refused_with_one_clear_line(tmp_path, splits, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_splits(write(tmp_path, **splits), **options)
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_refused(tmp_path):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    Dataset.from_list(ROWS).select([]).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match="validation.parquet is empty; expected at least one row"):
        load_splits(str(tmp_path))


def test_a_number_outside_the_declared_classes_is_refused(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.jsonl}\n"
        "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': 'no'\n          '1': 'yes'\n---\n"
    )
    with pytest.raises(ValueError, match="Found the labels 5 in train; expected one of no, yes"):
        load_splits(write(tmp_path, train=[{"text": "x", "label": i} for i in (0, 1, 5)]))


@pytest.mark.parametrize("name", ["./no/such/folder", "nobody/nothing"])
def test_a_missing_data_set_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"No data set found at '{name}'; expected a Hub id, a file"):
        load_splits(name)


@pytest.mark.parametrize("parts_of_a_key", [0, 2, 50])
@given(texts=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=12))
def test_texts_that_stand_in_others_agree_with_a_plain_search(parts_of_a_key, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertcls.data.splits._PARTS_OF_A_KEY", parts_of_a_key)
        found = {*find_within({*texts}, texts, count=len(texts))}
    assert found == {(a, place) for a in texts for place, b in enumerate(texts) if f" {a} " in f" {b} "}


def stands_in(one: list[str], other: list[str]) -> bool:
    """Whether a text of one side stands in a text of the other."""
    return any(True for _ in find_within({*one}, other, count=len(other)))


def test_held_out_texts_and_training_rows_share_nothing():
    sentences = [f"the {i} film is a {i} joy and {i} dread" for i in range(100)]
    phrases = [f"{i} film is a" for i in range(100)] + [f"{i} dread" for i in range(100)]
    rows = Dataset.from_dict({"text": [*sentences, *phrases, "joy", "joy"], "label": [0] * 302})
    train, validation = hold_out_whole_texts(rows, share=0.1, seed=0)
    assert len(validation) == 30  # ten sentences, each with its two phrases
    assert sum(text in sentences for text in validation["text"][:]) == 10
    assert len(train) == 302 - 30 - 2  # "joy" stands on both sides, so on neither
    for inside, outside in ((train, validation), (validation, train)):
        assert not stands_in(inside["text"][:], outside["text"][:])
    again, _ = hold_out_whole_texts(rows, share=0.1, seed=0)
    assert again["text"][:] == train["text"][:]
    other, _ = hold_out_whole_texts(rows, share=0.1, seed=1)
    assert other["text"][:] != train["text"][:]
    small, held_out = hold_out_whole_texts(rows.select(range(20)), seed=0)
    assert (len(small), len(held_out)) == (18, 2)  # never more than a tenth


def test_texts_that_are_all_one_cannot_be_held_out():
    rows = Dataset.from_dict({"text": ["the same"] * 9, "label": [0] * 9})
    with pytest.raises(ValueError, match="Found 9 training texts that stand in one another"):
        hold_out_whole_texts(rows)


def labelled(counts: dict[str, int]) -> Dataset:
    labels = [number for number, count in enumerate(counts.values()) for _ in range(count)]
    rows = Dataset.from_dict({"text": [str(i) for i in range(len(labels))], "label": labels})
    return rows.cast_column("label", ClassLabel(names=list(counts)))


def test_draw_rows_keeps_the_shares():
    rows = labelled({"a": 300, "b": 700})
    assert label_shares(draw_rows(rows, 100, seed=1)) == {"a": 0.3, "b": 0.7}
    assert draw_rows(rows, 100, seed=1)["text"][:] == draw_rows(rows, 100, seed=1)["text"][:]
    assert draw_rows(rows, 100, seed=1)["text"][:] != draw_rows(rows, 100, seed=2)["text"][:]
    assert len(draw_rows(rows, 5000, seed=1)) == 1000
    assert len(draw_rows(labelled({"a": 1, "b": 9}), 5, seed=1)) == 5  # a class of one row cannot keep its share
    with pytest.raises(ValueError, match="Asked for 1 rows; expected at least 2"):
        draw_rows(rows, 0.001, seed=1)
    assert len(draw_rows(rows, 0.25, seed=1)) == 250 and len(draw_rows(rows, 1.0, seed=1)) == 1000  # shares


def test_rows_keep_the_names_that_their_owner_gave_them(tmp_path):
    (tmp_path / "a.csv").write_text("ticket,text,label\n007,good,a\n,fine,b\n12,bad,a\n")
    rows = load_splits(str(tmp_path / "a.csv"), id_column="ticket")["train"]
    assert rows["id"][:] == ["007", None, "12"] and rows["example_id"][:] == [0, 1, 2]
    table, _ = answer_table(rows, np.array([[0.9, 0.1]] * 3))
    assert table["id"].fillna("").tolist() == ["007", "", "12"]
    with pytest.raises(ValueError, match="ticket_id"):
        load_splits(str(tmp_path / "a.csv"), id_column="ticket_id")


def test_no_row_is_both_chosen_by_and_reported():
    rows = labelled({"a": 900, "b": 900})
    first, second, third = (rows.select(range(i, 1800, 3)) for i in range(3))
    whole = {"train": first, "validation": second, "test": third}
    cases = {
        ("train", "validation", "test"): "test",
        ("train", "validation"): "validation",
        ("train", "test"): "test",
        ("train",): DRAWN,
    }
    for names, reported in cases.items():
        splits, name = arrange_splits(DatasetDict({name: whole[name] for name in names}))
        assert name == reported
        texts = [set(splits[part]["text"][:]) for part in ("train", "validation", "test")]
        assert all(texts) and not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
        if reported in names:
            assert splits["test"]["text"][:] == whole[reported]["text"][:]
    splits, name = arrange_splits(DatasetDict(whole), split="6:2:2", max_samples=500)
    assert name == DRAWN and [len(split) for split in splits.values()] == [300, 100, 100]


def test_no_row_is_held_out_to_choose_by_where_it_would_be_chance(caplog):
    rows = labelled({"a": 100, "b": 100})
    splits, name = arrange_splits(DatasetDict(train=rows))
    assert name == DRAWN and {name: len(split) for name, split in splits.items()} == {"train": 180, "test": 20}
    assert sorted(text for split in splits.values() for text in split["text"][:]) == sorted(rows["text"][:])
    assert "no row to choose by, 20 for test" in caplog.text
    splits, _ = arrange_splits(DatasetDict(train=rows, test=labelled({"a": 5, "b": 5})))
    assert {name: len(split) for name, split in splits.items()} == {"train": 200, "test": 10}


@pytest.mark.parametrize("ratio", ["8:1", "8:1:0", "a:b:c", "8-1-1"])
def test_a_wrong_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="expected three positive shares such as 8:1:1"):
        split_dataset(labelled({"a": 50, "b": 50}), ratio)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_text_stays_in_train(seed):
    splits = split_dataset(labelled({"a": 50, "b": 1}), "8:1:1", seed=seed)
    assert [split["label"][:].count(1) for split in splits.values()] == [1, 0, 0]
    splits, _ = arrange_splits(DatasetDict(train=labelled({"a": 600, "b": 1})))
    assert [splits[name]["label"][:].count(1) for name in ("train", "validation", "test")] == [1, 0, 0]


@pytest.mark.real
def test_the_lab_protocol_on_sst2():
    splits = load_splits(real_path("BERTCLS_DATA") + "/sst2", text_column="sentence")
    assert list(splits) == ["train", "validation"]  # the test labels are hidden
    assert round(label_shares(splits["train"])["positive"], 6) == 0.557826
    assert round(label_shares(splits["validation"])["positive"], 6) == 0.509174
    joined = concatenate_datasets([splits["train"], splits["validation"]])
    sizes = {name: len(split) for name, split in split_dataset(joined, "8:1:1", together=False).items()}
    assert sizes == {"train": 54576, "validation": 6822, "test": 6823}
    assert sum(split_dataset(joined, "8:1:1", together=False)["test"]["label"][:]) == 3802
    first = joined.select(range(10000))
    sizes = {name: len(split) for name, split in split_dataset(first, "8:1:1", together=False).items()}
    assert sizes == {"train": 8000, "validation": 1000, "test": 1000}


@pytest.mark.real
def test_the_selection_split_of_sst2_does_not_leak():
    train = load_splits(real_path("BERTCLS_DATA") + "/sst2", text_column="sentence")["train"]
    kept, validation = hold_out_whole_texts(train)
    assert (len(kept), len(validation)) == (62800, 3370)
    kept_texts, texts = ([comparison_key(text) for text in split["text"][:]] for split in (kept, validation))
    assert not stands_in(kept_texts, texts) and not stands_in(texts, kept_texts)


def test_class_numbers_of_another_order_keep_their_names(tmp_path):
    for name, names in (("train", ["neg", "pos"]), ("test", ["pos", "neg"])):
        rows = Dataset.from_dict({"text": ["good one", "bad one"], "label": [names.index("pos"), names.index("neg")]})
        rows.cast_column("label", ClassLabel(names=names)).to_parquet(tmp_path / f"{name}.parquet")
    splits = load_splits(str(tmp_path))
    assert splits["train"]["label"][:] == splits["test"]["label"][:] == [1, 0]


def test_equal_texts_stay_on_one_side():
    texts = [f"text number {i}{mark}" for i in range(250) for mark in ("", "!")] + [""] * 100
    rows = Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(600)], "example_id": range(600)})
    rows = rows.cast_column("label", ClassLabel(names=["a", "b"]))
    splits, _ = arrange_splits(DatasetDict(train=rows))
    assert not audit_splits(splits)["leaked"]
    assert sorted(i for split in splits.values() for i in split["example_id"][:]) == list(range(600))
    assert all(54 <= len(splits[name]) <= 66 for name in ("validation", "test"))
    plain = split_dataset(rows, "8:1:1", together=False)
    assert audit_splits(plain)["leaked"]


@pytest.mark.parametrize("seed", range(5))
def test_a_text_that_fills_half_of_the_data_stays_in_train(seed):
    texts = ["thanks"] * 200 + [f"text number {i}" for i in range(200)]
    rows = Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(400)]})
    splits = split_dataset(rows.cast_column("label", ClassLabel(names=["a", "b"])), "8:1:1", seed=seed)
    assert [len(split) for split in splits.values()] == [360, 20, 20]


@pytest.mark.parametrize("ratio", [None, "6:2:2"])
def test_rare_sets_of_labels_and_numbers_are_split(tmp_path, ratio):
    sets = [["a"]] * 60 + [["b"]] * 60 + [["a", "b"]] + [[]] * 9
    several = load_splits(pd.DataFrame({"text": [f"text {i}" for i in range(130)], "label": sets}))
    numbers = load_splits(
        pd.DataFrame({"text": [f"text {i}" for i in range(130)], "label": [i / 7 for i in range(130)]})
    )
    for splits in (several, numbers):
        parts, _ = arrange_splits(splits, split=ratio)
        assert sum(map(len, parts.values())) == 130
        assert len(draw_rows(parts["train"], 30, seed=0)) == 30
    assert several["train"].features["label"].feature.names == ["a", "b"]
    assert label_shares(several["train"]) == {"a": 61 / 130, "b": 61 / 130}
    mean = {name: sum(split["label"][:]) / len(split) for name, split in arrange_splits(numbers)[0].items()}
    assert max(mean.values()) - min(mean.values()) < 2  # of 0 to 18: deciles keep their shares


def test_a_draw_keeps_the_shares_beside_a_class_of_one_row():
    drawn = label_shares(draw_rows(labelled({"a": 900, "b": 100, "c": 1}), 20, seed=0))
    assert drawn["b"] == 0.1


def test_texts_without_labels(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    assert load_splits(str(tmp_path / "texts.txt"), labelled=False)["train"].to_list() == [
        {"text": "one", "example_id": 0},
        {"text": "two", "example_id": 1},
    ]


def test_names_of_splits_and_what_is_left_out(caplog):
    rows = Dataset.from_dict({"text": ["a b", "c d"], "label": ["x", "y"]})
    unlabelled = rows.remove_columns("label")
    source = DatasetDict(train=rows, dev=rows, validation_matched=rows, test=unlabelled)
    assert list(load_splits(source)) == ["train", "validation"]
    assert "validation_matched of the data set are not used" in caplog.text
    assert "The test split of the data set has no column label; it is left out" in caplog.text


def test_files_stand_in_for_splits(tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nnew,x\n")
    rows = Dataset.from_dict({"text": ["a b", "c d"], "label": ["x", "y"]})
    splits = load_splits(DatasetDict(train=rows, test=rows), test_file=str(tmp_path / "test.csv"))
    assert splits["train"]["text"][:] == ["a b", "c d"] and splits["test"]["text"][:] == ["new"]


def test_templated_texts_are_searched_in_linear_work():
    """Texts that share their first words, in which a search by first words alone would take minutes."""
    texts = [f"this is my review of {'x ' * (i % 97)}number {i}" for i in range(3000)]
    keys = [comparison_key(text) for text in texts]
    found = {*find_within(keys, [f"{key} end" for key in keys], count=len(keys))}
    assert found == {(key, place) for place, key in enumerate(keys)}


@pytest.mark.parametrize("vocabulary", ["a", "ab", "abcdefgh"])
def test_texts_of_few_different_words_are_searched_in_linear_work(vocabulary):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice([*vocabulary], random.integers(4, 20))) for _ in range(16_000)]
    texts = sorted({*texts, *(" ".join(["a"] * length) for length in range(1, 300))})
    start = time.process_time()
    found = {*find_within(texts, texts, count=len(texts))}
    assert time.process_time() - start < 15
    assert found >= {(text, place) for place, text in enumerate(texts)}


@pytest.mark.parametrize(("different", "times"), [(1000, 4), (400, 25), (4000, 1)])
def test_a_twentieth_of_the_rows_is_held_out_however_often_texts_repeat(different, times):
    texts = [f"text number {i}" for i in range(different) for _ in range(times)]
    rows = Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(len(texts))]})
    rows = rows.cast_column("label", ClassLabel(names=["a", "b"]))
    splits, _ = arrange_splits(DatasetDict(train=rows, test=rows.select(range(9))))
    expected = min(max(len(texts) // 20, 500), len(texts) // 10)
    assert abs(len(splits["validation"]) - expected) <= times


def test_an_unreadable_column_is_named_and_not_replaced(tmp_path):
    good = [{"text": f"text {i}", "label": i % 2, "content": "c"} for i in range(10)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    mixed = [{**row, "label": row["label"] if i % 2 else "one"} for i, row in enumerate(good)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    with pytest.raises(ValueError, match="Column label of .*test.jsonl mixes types"):
        load_splits(str(tmp_path))
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*good, {**good[0], "text": 3}]))
    with pytest.raises(ValueError, match="Column text of .*train.jsonl mixes types"):
        load_splits(str(tmp_path))


def test_test_rows_that_a_new_split_leaves_unused_are_said(caplog):
    splits = DatasetDict(train=labelled({"a": 50, "b": 50}), test=labelled({"a": 7, "b": 7}))
    parts, reported = arrange_splits(splits, split="8:1:1")
    assert reported == DRAWN and sum(map(len, parts.values())) == 100
    assert "the 14 labelled rows of the test split are not used" in caplog.text
    assert arrange_splits(splits)[1] == "test"


def test_more_sets_of_labels_than_rows_are_drawn_from_all_the_same():
    sets = [[i, j] for i in range(8) for j in range(i)] * 10
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(len(sets))], "label": sets})
    rows = rows.cast_column("label", List(ClassLabel(names=list("abcdefgh"))))
    assert len(draw_rows(rows, 20, seed=0)) == 20


def test_phrases_of_a_lone_split_stay_together():
    sentences = [f"the {i} film is a {i} joy" for i in range(400)]
    rows = Dataset.from_dict(
        {"text": [*sentences, *(f"{i} film is a {i}" for i in range(400))], "label": [0, 1] * 400}
    )
    splits, reported = arrange_splits(
        DatasetDict(train=rows.cast_column("label", ClassLabel(names=["a", "b"]))), phrases=True
    )
    assert reported == DRAWN and len(splits["validation"]) >= 60 and len(splits["test"]) >= 60
    for one, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
        assert not stands_in(splits[one]["text"][:], splits[other]["text"][:])


@pytest.mark.parametrize("taken_from", [2**28, 0])
def test_columns_come_in_the_order_of_the_rows_that_were_selected(taken_from, monkeypatch):
    monkeypatch.setattr(columns, "_TAKEN_FROM", taken_from)
    monkeypatch.setattr(columns, "ROWS_AT_A_TIME", 7)
    draw = np.random.default_rng(0)
    texts = [None if number % 11 == 0 else f"text {number}" for number in range(100)]
    made = {"text": texts, "labels": [[number] * (number % 3) for number in range(100)], "example_id": [*range(100)]}
    whole = concatenate_datasets([Dataset.from_dict(made).select(range(40)), Dataset.from_dict(made)])
    for rows in (range(140), draw.permutation(140), np.sort(draw.choice(140, 60)), [139], range(30, 50), []):
        selected = whole.select(rows)
        ids = columns.numbers_in(selected, "example_id")
        found = columns.column(selected, "text")
        assert ids.tolist() == selected["example_id"][:] and len(found) == len(rows)
        assert found.num_chunks <= -(-len(rows) // 7) + 1  # a batch that spans both parts has two
        read = [row for batch in columns.row_batches(selected, "text", "labels") for row in zip(*batch.values())]
        assert read == [(row["text"], row["labels"]) for row in selected]


def test_texts_of_a_class_in_capital_endings_and_missing_cells_of_pandas(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "train" / label / f"{number}.{'TXT' if number % 2 else 'txt'}").write_text(f"{label} {number}")
    assert len(load_splits(str(tmp_path))["train"]) == 8
    frame = pd.DataFrame({"text": ["a b", None, "c d", "e f"], "label": ["x", "y", "y", "x"]})
    (tmp_path / "rows.json").write_text(json.dumps(frame.replace({None: float("nan")}).to_dict("records")))
    assert "NaN" in (tmp_path / "rows.json").read_text()
    assert load_splits(train_file=str(tmp_path / "rows.json"), drop_empty=True)["train"]["text"][:] == [
        "a b",
        "c d",
        "e f",
    ]


@pytest.mark.parametrize("fold", ["validation-9/5", "validation-x/5", "1/1", "0/5", "final/1", "x", "2/"])
def test_a_fold_that_is_none_is_refused(fold):
    rows = Dataset.from_dict({"text": ["a", "b"] * 20, "label": [0, 1] * 20})
    with pytest.raises(ValueError, match=f"Found --fold {fold}; expected one such as 2/5"):
        arrange_splits(DatasetDict(train=rows), fold=fold)
