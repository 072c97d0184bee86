"""Files of every make: what a reader of ours gives is what was written, or one line says why it is not."""

import csv
import gzip
import io
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bertcls import load_splits
from bertcls.data import encoding, folders, labels, load, splits, streams, tables
from bertcls.data.folders import Files
from bertcls.data.streams import stream_rows
from bertcls.data.tables import stream_table

ALIKE = {"text": [f"a text {i}" for i in range(6)], "label": ["x", "y"] * 3}


def rows_in(path: Path, **options) -> list[dict]:
    return Files([path]).read(**options)[0].to_list()


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


FILMS = ["text,label", *(f"the film number {i} was fine,{'good' if i % 2 else 'bad'}" for i in range(60))]
LOST_QUOTES = {  # the lines that change, and how; what is right
    "one at the start": ({10: '"{}'}, 60),
    "two at the start": ({10: '"{}', 50: '"{}'}, 60),
    "one in the middle": ({10: '{} he said "no'}, 60),
    "one before the label": ({10: 'the film was fine,"good'}, 60),
    "one in the last line": ({60: '"{}'}, 60),
    "beside a cell that needs its quotes": ({10: '"{}', 50: '"fine, and short",good'}, "line 11: "),
    "beside another, and a row too long": ({10: '"{}', 50: "fine, and short,good"}, "line 11: "),
    "a label in quotes": ({10: '"{}', 50: 'the film was fine,"good"'}, 60),
    "on a line of its own": ({10: '"', 50: '"'}, "line 11: "),
}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize(("changes", "right"), LOST_QUOTES.values(), ids=LOST_QUOTES)
def test_a_lost_quote_swallows_no_row(tmp_path, changes, right, delimiter):
    lines = [changes.get(number, "{}").format(line) for number, line in enumerate(FILMS)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(line.replace(",", delimiter) for line in lines) + "\n")
    if isinstance(right, int):
        assert len(rows_in(path)) == right
        assert [row for table in stream_table([path])() for row in table.to_pylist()] == rows_in(path)
    else:
        with pytest.raises(ValueError, match=right) as error:
            rows_in(path)
        one_line(error)


def test_a_quote_that_another_closes_much_later_is_said(tmp_path, caplog):
    lines = [*FILMS]
    lines[10], lines[50] = f'"{lines[10]}', 'the end",good'
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    assert len(rows_in(tmp_path / "a.csv")) == 20  # as Python's csv reads it
    assert "has a row from line 11 to line 51 by its quotes" in caplog.text
    (tmp_path / "a.csv").write_text("\n".join(lines[:51]) + "\n")
    assert len(rows_in(tmp_path / "a.csv")) == 10  # it is the last row
    assert caplog.text.count("has a row from line 11 to line 51 by its quotes") == 2
    caplog.clear()
    (tmp_path / "b.csv").write_text('text,label\n"a\nb\nc\nd\ne, and f",x\n')  # whose lines are no rows
    assert len(rows_in(tmp_path / "b.csv")) == 1 and not caplog.text


def test_an_encoding_without_its_mark_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\nna\u00efve,x\n".encode("utf-16-le"))
    with pytest.raises(
        ValueError, match="a.csv is not utf-16: .* Name another --encoding, such as utf-16-le"
    ) as error:
        stream_table([tmp_path / "a.csv"], encoding="utf-16")
    one_line(error)


def test_what_a_parquet_file_says_of_itself_decides_nothing(tmp_path, caplog):
    kept = Dataset.from_dict({"text": ["old", "older"]}).map(lambda row: row).data.table
    pq.write_table(kept, tmp_path / "a.parquet")
    pq.write_table(kept.set_column(0, "text", pa.array(["new", "newer"])), tmp_path / "b.parquet")
    first, second = (load_splits(tmp_path / name, labelled=False)["train"] for name in ("a.parquet", "b.parquet"))
    assert first._fingerprint != second._fingerprint and second["text"][:] == ["new", "newer"]
    for broken in (b"[]", b"null", b'{"info": null}', b"{", b'{"info": {"features": {"text": {"_type": "No"}}}}'):
        pq.write_table(kept.replace_schema_metadata({b"huggingface": broken}), tmp_path / "c.parquet")
        caplog.clear()
        assert load_splits(tmp_path / "c.parquet", labelled=False)["train"]["text"][:] == ["old", "older"]
        assert caplog.text.count("c.parquet says of its columns") == 1


def test_a_line_of_jsonl_is_a_row_though_it_is_alone(tmp_path):
    row = {"body": "hello", "turns": [{"body": "x"}, {"body": "y"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert rows_in(tmp_path / "a.jsonl") == [row]


def test_a_card_that_refers_to_itself_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("---\na: &a [x, x]\nb: &b [*a, *a]\nconfigs: *b\n---\n")
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    with pytest.raises(ValueError, match="README.md refers to parts of itself") as error:
        load_splits(tmp_path)
    one_line(error)


def test_a_test_file_without_labels_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "b.csv").write_text("text,Label\na,x\n")
    with pytest.raises(ValueError, match="has no column label; expected labels to report by") as error:
        load_splits(train_file=str(tmp_path / "a.csv"), test_file=str(tmp_path / "b.csv"))
    one_line(error)


def test_parquet_and_others_are_no_single_table(tmp_path):
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text\nb\n")
    with pytest.raises(ValueError, match="Found .csv and .parquet files in .* as one split; expected"):
        stream_table([tmp_path / "a.parquet", tmp_path / "b.csv"])


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_carriage_return_within_a_line_parts_no_rows(tmp_path, line_end):
    path = tmp_path / "a.csv"
    lines = ["text,label", "a,x", "b\rc,y", ""]
    path.write_text(line_end.join(lines), newline="")
    with pytest.raises(ValueError, match="line 3: new-line character seen in unquoted field") as error:
        stream_table([path])
    one_line(error)
    lines[2] = '"b\rc",y'
    path.write_text(line_end.join(lines), newline="")
    assert [row["text"] for row in rows_in(path)] == ["a", "b\rc"]
    path.write_text("\r\r\n".join(lines), newline="")
    assert len(rows_in(path)) == 2


LETTERS = st.sampled_from(",;\t|\"'\n\r a1é好") | st.characters(codec="utf-8", exclude_characters="\0")
CELLS = st.text(LETTERS, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", "|", "^"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_csv_writes_reads_back_row_for_row(tmp_path, rows, delimiter, encoding, line_end, quoting):
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([("id", "text", "label"), *rows])
    # before Python 3.13 a carriage return was not quoted in all cases
    read = csv.reader(io.StringIO(written.getvalue(), newline=""), delimiter=delimiter)
    assume([*map(tuple, read)][1:] == rows)
    path = tmp_path / "a.csv"
    path.write_bytes(written.getvalue().encode(encoding))
    names = ("id", "text", "label")
    expected = [{name: cell or None for name, cell in zip(names, row)} for row in rows]
    assert rows_in(path, delimiter=delimiter, encoding=encoding) == expected
    streamed = stream_table([path], delimiter=delimiter, encoding=encoding)
    assert [row for table in streamed() for row in table.to_pylist()] == expected


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("above", ["", "sep={}", '"SEP={}"'])
def test_delimiter_and_encoding_are_found(tmp_path, delimiter, encoding, line_end, above):
    rows = [("这家酒店的早餐很好, 房间也干净", "好"), ("服务态度很差; 不会再来", "差"), ("一般| 没有\t印象", "差")] * 3
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, lineterminator=line_end).writerows([("text", "label"), *rows])
    content = above.format(delimiter) + line_end * bool(above) + written.getvalue()
    (tmp_path / "a.csv").write_bytes(content.encode(encoding))
    assert rows_in(tmp_path / "a.csv") == [{"text": text, "label": label} for text, label in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_separator_that_excel_names(tmp_path, name):
    (tmp_path / name).write_text('\ufeffsep=;\ntext;label\na, b;"1,5"\n;x\n')
    assert rows_in(tmp_path / name) == [{"text": "a, b", "label": "1,5"}, {"text": None, "label": "x"}]
    with pytest.raises(ValueError, match="first at line 4 of"):
        load_splits(str(tmp_path / name))
    (tmp_path / name).write_text("sep=,\ntext;label\na;x\n")
    assert rows_in(tmp_path / name, delimiter=";") == [{"text": "a", "label": "x"}]  # an option wins


WORDS = {"id": ["001", "002", "010"], "text": ["N/A", "None", "null"], "label": ["01", "02", "10"]}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "csv.gz"])
@pytest.mark.parametrize("layout", ["answers_may.{}", "data/train-00000-of-00002.{}", "train/part_1.{}"])
def test_a_folder_is_read_by_the_rules_of_a_file(tmp_path, kind, layout):
    frame, folder = pd.DataFrame(WORDS), tmp_path / "survey"
    second = layout.replace("may", "june").replace("00000", "00001").replace("_1", "_2")
    names = [layout.format(kind), second.format(kind)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        elif kind == "json":
            path.write_text(frame.to_json(orient="records"))
        else:
            frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    split = load_splits(str(folder), label_column="label")["train"]
    assert split["text"][:] == WORDS["text"] * 2
    assert split.features["label"].names == ["01", "02", "10"]
    tables = list(stream_rows(str(folder), id_column="id")())
    assert [row for table in tables for row in table.to_pylist()] == [
        {"id": i, "text": text} for i, text in zip(WORDS["id"] * 2, WORDS["text"] * 2)
    ]
    single = load_splits(train_file=str(folder / names[0]))["train"]
    assert single["text"][:] == WORDS["text"] and single.features == split.features


def test_folders_keep_what_their_readme_declares(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  sep: '^'\n  data_files:\n  - {split: train, path: 'a*.csv'}\n"
        "  - {split: test, path: b.csv}\ndataset_info:\n  features:\n  - {name: text, dtype: string}\n"
        "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': 'no'\n          '1': 'yes'\n"
        "---\n"
    )
    for name, label in (("a1", "yes"), ("a2", "no"), ("b", "yes")):
        (tmp_path / f"{name}.csv").write_text(f"text^label\nNone, {name}^{label}\n")
    splits = load_splits(str(tmp_path))
    assert splits["train"].to_list() == [
        {"text": "None, a1", "label": 1, "example_id": 0},
        {"text": "None, a2", "label": 0, "example_id": 1},
    ]
    assert splits["train"].features["label"].names == ["no", "yes"] and len(splits["test"]) == 1
    (tmp_path / "a2.csv").write_text("text^label\nNone^perhaps\n")
    with pytest.raises(ValueError, match="perhaps") as error:
        load_splits(str(tmp_path))
    one_line(error)


def test_files_beside_those_of_the_splits(tmp_path, caplog):
    for name in ("train.csv", "dev.jsonl", "more.csv", "LICENSE.txt"):
        content = '{"text": "b", "label": "x"}' if "json" in name else "text,label\na,x\nb,y\n"
        (tmp_path / name).write_text(content)
    assert {name: len(split) for name, split in load_splits(str(tmp_path)).items()} == {"train": 2, "validation": 1}
    assert "more.csv are not read" in caplog.text and "LICENSE" not in caplog.text


@pytest.mark.parametrize(
    "names", [("train.csv", "train2.csv"), ("train-00000-of-00002.csv", "train-00001-of-00002.csv")]
)
def test_parts_of_a_split_beside_another_split(tmp_path, names):
    for name in (*names, "test.csv"):
        (tmp_path / name).write_text("text,label\na,01\nNA,2\n")
    splits = load_splits(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "test": 2}
    assert splits["train"].features["label"].names == ["01", "2"] and splits["train"]["text"][1] == "NA"


def test_shards_that_differ(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,x\n")
    (tmp_path / "b.csv").write_text("label;text;more\ny;two;m\n;three;\n")
    with pytest.raises(ValueError, match="first at line 3 of b.csv of"):
        load_splits(str(tmp_path))
    assert load_splits(str(tmp_path), labelled=False)["train"]["text"][:] == ["one", "two", "three"]
    for name, label in (("a", 1), ("b", "one")):
        (tmp_path / f"{name}.csv").unlink()
        pq.write_table(pa.table({"text": ["a"], "label": [label]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="expected columns of one type in all files") as error:
        load_splits(str(tmp_path))
    one_line(error)


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table", "dict of lists"])
def test_json_as_pandas_writes_it(tmp_path, orient):
    frame = pd.DataFrame(ALIKE)
    content = json.dumps(ALIKE) if orient == "dict of lists" else frame.to_json(orient=orient)
    (tmp_path / "a.json").write_text(content)
    split = load_splits(str(tmp_path / "a.json"))["train"]
    assert split["text"][:] == ALIKE["text"] and split["label"][:] == [0, 1] * 3


def test_json_of_other_forms_is_refused_in_a_line(tmp_path):
    for content in (pd.DataFrame(ALIKE).to_json(orient="values"), '{"a": {"b": 1}, "c": {"d": 2}}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match=r'such as \{"text"|orient="records"') as error:
            load_splits(str(tmp_path / "a.json"))
        one_line(error)


def test_spreadsheets(tmp_path):
    for name in ("a.xlsx", "a.xls", "a.ods"):
        (tmp_path / name).write_bytes(b"PK\x03\x04\0\0")
        with pytest.raises(ValueError, match=r"Save it as CSV \(UTF-8\)"):
            load_splits(str(tmp_path / name))
    (tmp_path / "renamed.csv").write_bytes(b"PK\x03\x04\0\0")
    with pytest.raises(ValueError, match=r"you can save as CSV \(UTF-8\)"):
        load_splits(str(tmp_path / "renamed.csv"))


def test_rows_without_a_column(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    with pytest.raises(ValueError) as error:
        load_splits(str(tmp_path / "a.jsonl"))
    one_line(error)


def test_a_folder_of_save_to_disk(tmp_path):
    rows = Dataset.from_dict(ALIKE)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict(train=rows, dev=rows).save_to_disk(tmp_path / "two")
    assert load_splits(str(tmp_path / "one"))["train"]["text"][:] == ALIKE["text"]
    assert list(load_splits(str(tmp_path / "two"))) == ["train", "validation"]
    assert next(stream_rows(str(tmp_path / "one"))())["text"].to_pylist() == ALIKE["text"]
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match="expected what Dataset.save_to_disk wrote") as error:
        load_splits(str(tmp_path / "one"))
    one_line(error)


VIEW = pa.string_view()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["x", "y"], VIEW), [0, 1]),
        (pa.array(["x", "y"]).dictionary_encode(), [0, 1]),
        (pa.array([["x"], ["x", "y"]], pa.list_(VIEW)), [[0], [0, 1]]),
        (pa.array([["x"], ["x", "y"]], pa.large_list(VIEW)), [[0], [0, 1]]),
        (pa.array(["x", "y"], pa.large_string()), [0, 1]),
    ],
)
@pytest.mark.parametrize("name", ["a.parquet", "folder/part-1.parquet", "a.parquet.gz"])
def test_strings_of_every_type_of_parquet(tmp_path, labels, expected, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    packed = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": pa.array(["a", "b"], VIEW), "label": labels}), packed)
    content = packed.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    source = str(path.parent if "/" in name else path)
    split = load_splits(source)["train"]
    assert split["text"][:] == ["a", "b"] and split["label"][:] == expected
    assert next(stream_rows(source)())["text"].to_pylist() == ["a", "b"]


def twice(kind: str, tmp_path: Path):
    table = pa.table([["a", "b"], ["x", "y"], ["1", "2"], ["3", "4"]], names=["text", "label", "n", "n"])
    if kind == "frame":
        frame = pd.DataFrame([["a", "x", "1", "3"], ["b", "y", "2", "4"]])
        return frame.set_axis(["text", "label", "n", "n"], axis=1)
    path = tmp_path / f"a.{kind}"
    pq.write_table(table, path) if kind == "parquet" else path.write_text("text,label,n,n\na,x,1,3\nb,y,2,4\n")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_a_name_that_stands_twice_counts_where_it_is_asked_for(tmp_path, kind):
    source = twice(kind, tmp_path)
    assert load_splits(source)["train"]["label"][:] == [0, 1]
    for options in ({"label_column": "n"}, {"text_column": "n"}):
        with pytest.raises(ValueError, match="Column n of .* stands twice") as error:
            load_splits(source, **options)
        one_line(error)
    if kind != "frame":
        assert next(stream_rows(source)())["text"].to_pylist() == ["a", "b"]
        with pytest.raises(ValueError, match="stands twice"):
            stream_rows(source, id_column="n")


@pytest.mark.parametrize("source", [[{"text": "a", "label": "x"}] * 300, ALIKE, ("a", "b"), iter([]), 7])
def test_data_of_another_kind_is_refused_with_a_way(source):
    with pytest.raises(ValueError, match=r"expected a Hub id, a path, a DataFrame.*Dataset.from_list") as error:
        load_splits(source)
    one_line(error)


def test_a_class_without_rows_is_no_fault():
    rows = Dataset.from_dict({"text": ALIKE["text"], "label": [0, 1] * 3})
    split = load_splits(rows.cast_column("label", ClassLabel(names=["a", "b", "never"])))["train"]
    assert split.features["label"].names == ["a", "b", "never"]


def test_a_description_says_nothing_to_us():
    rows = Dataset.from_dict(ALIKE)
    rows.info.description = '{"broken'
    assert len(load_splits(rows)["train"]) == 6


def test_a_header_of_any_length(tmp_path):
    names = ["text", "label", *(f"{i:070d}" for i in range(2000))]
    (tmp_path / "a.csv").write_text(",".join(names) + "\na,x\nb,y\n")
    assert len((tmp_path / "a.csv").read_text()) > 131_072
    assert load_splits(str(tmp_path / "a.csv"))["train"]["label"][:] == [0, 1]
    with pytest.raises(ValueError, match="expected topic"):
        load_splits(str(tmp_path / "a.csv"), label_column="topic")


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("first", [0, 1])
def test_two_encodings_in_a_file_are_refused(tmp_path, rows, first):
    parts = ["房间很干净，服务也好,好\n".encode() * rows, "再也不来了，早餐很差,差\n".encode("gb18030") * rows]
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + parts[first] + parts[1 - first])
    with pytest.raises(ValueError, match=f"is not utf-8: byte .. in line {2 if first else 2 + rows} has no") as error:
        load_splits(str(tmp_path / "a.csv"))
    one_line(error)


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_a_letter_of_utf_8_a_line_is_none_of_latin_1(tmp_path, rows):
    lines = [f"a café {row}\n".encode(name) for row in range(rows) for name in ("utf-8", "latin-1")]
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="is not utf-8: byte e9 in line 2 has no meaning"):
        load_splits(str(tmp_path / "a.txt"), labelled=False)


def test_short_lines_of_gb18030_that_are_utf_8_by_chance(tmp_path):
    texts = ["好", "差", "行", "很好", "路"] * 30
    assert "路".encode("gb18030").decode() == "·"
    (tmp_path / "a.txt").write_bytes("\n".join(texts).encode("gb18030"))
    assert load_splits(str(tmp_path / "a.txt"), labelled=False)["train"]["text"][:] == texts


def test_a_list_on_one_line_of_jsonl_may_be_long(tmp_path, monkeypatch):
    monkeypatch.setattr("bertcls.data.tables.LONGEST", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps(pd.DataFrame(ALIKE).to_dict("records")))
    assert len(load_splits(str(tmp_path / "a.jsonl"))["train"]) == 6


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.txt.gz", "a.jsonl"])
def test_a_giant_line_is_refused_before_it_is_held(tmp_path, monkeypatch, name):
    monkeypatch.setattr("bertcls.data.tables.LONGEST", 3_000_000)
    content = b"text\nshort\n" + b"x" * 3_000_001 + b"\nshort\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match="more than 3,000,000 characters in line 3; expected a text") as error:
        load_splits(str(tmp_path / name), labelled=False)
    one_line(error)


EMPTY = {  # content; the line of the first row without a text or label
    "a.csv": ('text,label\na,x\n"two\nlines",y\n,x\nb,\nc,y\n', "line 5"),
    "a.tsv": ("text\tlabel\na\tx\nb\ty\n\n\tx\nc\t\nd\ty\n", "line 5"),
    "a.jsonl": ('{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y"}\n{"text": null, "label": "y"}\n'
                '{"text": "c", "label": null}\n{"text": "d", "label": "y"}\n', "line 4"),
    "a.json": ('[{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"label": "y"}, {"text": "c"},'
               '{"text": "c", "label": "x"}]', "record 2"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "line"), [(name, *rest) for name, rest in EMPTY.items()])
def test_empty_cells_are_named_by_their_line_or_left_out(tmp_path, caplog, name, content, line):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(
        ValueError, match=f"Found 2 rows without .* first at {line} of .*{name}; .*--drop_empty"
    ) as error:
        load_splits(str(path))
    one_line(error)
    split = load_splits(str(path), drop_empty=True)["train"]
    assert len(split) == 3 and split["label"][:] in ([0, 1, 1], [0, 1, 0])
    assert split["example_id"][:] == [0, 1, 4]  # the others keep their places
    assert f"Left out 2 rows without a text or label (-1 or empty) in train, the first at {line}" in caplog.text


def test_empty_rows_in_memory_and_texts_of_blanks(caplog):
    frame = pd.DataFrame({"text": ["a", " ", "b", None], "label": ["x", "y", "y", "x"]})
    with pytest.raises(ValueError, match="Found 1 rows .* the first at row 3; expected both"):
        load_splits(frame)
    split = load_splits(frame, drop_empty=True)["train"]
    assert split["text"][:] == ["a", "b"] and "Left out 2 rows" in caplog.text
    texts = load_splits(frame, labelled=False, drop_empty=True)["train"]
    assert texts.to_list() == [{"text": "a", "example_id": 0}, {"text": "b", "example_id": 2}]
    with pytest.raises(ValueError, match="Found 2 rows without a text or label"):
        load_splits(frame.iloc[[1, 3]], drop_empty=True)


def test_work_grows_with_the_text_alone():
    """Every pattern of the folder, on what makes a pattern that tries all ways take minutes."""
    modules = (encoding, folders, labels, load, splits, streams, tables)
    values = {id(value): value for module in modules for value in vars(module).values()}
    patterns = [value for value in values.values() if isinstance(value, re.Pattern)]
    assert len(patterns) >= 5
    units = ("1", " ", "a", '"', "[", "1 ", "'", "[1", "sep=", "-", ".", "' ", "1.")
    nasty = [unit * 16_000 + end for unit in units for end in ("x", "!", "]")]
    nasty += [f"[{text}" for text in nasty]
    start = time.process_time()
    for text in nasty:
        for pattern in patterns:
            pattern.fullmatch(text)
        labels.natural_key(text)
        with suppress(ValueError):
            load_splits(pd.DataFrame({"text": ["a", "b"], "label": [text, "x"]}))
    assert time.process_time() - start < 10


def test_one_line_with_a_list_of_objects_is_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "Paris is big", "entities": [{"text": "Paris", "type": "x"}]})
    )
    assert rows_in(tmp_path / "a.jsonl")[0]["text"] == "Paris is big"
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"text": "Paris"}, {"text": "Rome"}]}))
    assert [row["text"] for row in rows_in(tmp_path / "a.json")] == ["Paris", "Rome"]


def test_a_name_twice_in_an_object_is_refused(tmp_path):
    lines = ['{"text": "good", "label": "x"}', '{"text": "bad", "label": "x", "label": "y"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="has 'label' twice in line 2; expected different names") as error:
        load_splits(str(tmp_path / "a.jsonl"))
    one_line(error)
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], '{"text": "bad", "label": "y", "meta": {"a": 1, "a": 2}}']))
    assert len(load_splits(str(tmp_path / "a.jsonl"))["train"]) == 2


def test_half_a_character_in_an_object_is_said(tmp_path):
    rows = [{**row, "user": {"name": "\ud83d"}} for row in pd.DataFrame(ALIKE).to_dict("records")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_splits(str(tmp_path / "a.jsonl"))["train"]) == 6
    with pytest.raises(ValueError, match="user .*half of a character .* in line 1"):
        load_splits(str(tmp_path / "a.jsonl"), id_column="user")


def test_a_long_text_that_a_parquet_file_holds_once_is_counted_in_each_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BYTES_OF_ROWS", 10_000_000)
    for rows, text in ((100, "a" * 200_000), (3000, "a short text")):
        table = pa.table({"text": [text] * rows, "label": ["x", "y"] * (rows // 2)})
        pq.write_table(table, tmp_path / f"{rows}.parquet", compression="zstd")
    assert (tmp_path / "100.parquet").stat().st_size < 10_000
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched := Watched(pq.ParquetFile.iter_batches))
    with pytest.raises(ValueError, match="100.parquet holds rows of which 4096 take 0.0 GiB; expected at most"):
        load_splits(str(tmp_path / "100.parquet"))
    assert watched.largest < 1_000_000  # before they were unpacked
    assert len(load_splits(str(tmp_path / "3000.parquet"))["train"]) == 3000
    table = pa.table({"text": ["a" * 9000, *(f"text {row}" for row in range(2999))], "label": ["x", "y"] * 1500})
    pq.write_table(table, tmp_path / "plain.parquet", use_dictionary=False, row_group_size=500)
    assert len(load_splits(str(tmp_path / "plain.parquet"))["train"]) == 3000


class Watched:
    """`iter_batches` that knows the bytes of its largest batch."""

    def __init__(self, call):
        self.call, self.largest = call, 0

    def __get__(self, file, kind=None):
        def watched(*args, **options):
            for batch in self.call(file, *args, **options):
                self.largest = max(self.largest, batch.nbytes)
                yield batch

        return watched


def test_columns_of_types_that_datasets_lacks_are_no_hindrance(tmp_path):
    table = pa.table(ALIKE).append_column("id", pa.array([bytes([i] * 16) for i in range(6)], pa.uuid()))
    table = table.append_column("more", pa.array([[("a", 1)]] * 6, pa.map_(pa.string(), pa.int64())))
    pq.write_table(table, tmp_path / "a.parquet")
    assert load_splits(str(tmp_path / "a.parquet"))["train"]["text"][:] == ALIKE["text"]
    for name, found in (("id", "holds fixed_size_binary"), ("more", "is of type map<string, int64")):
        with pytest.raises(ValueError, match=f"{name} .*{found}") as error:
            load_splits(str(tmp_path / "a.parquet"), id_column=name)
        one_line(error)


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16", "utf-32"])
def test_a_mark_of_byte_order_is_no_part_of_a_name(tmp_path, name):
    content = "\ufefftext,label\ngood,x\nbad,y\n".encode(f"{name.removesuffix('-le')}-le")
    (tmp_path / "a.csv").write_bytes(content)
    assert load_splits(str(tmp_path / "a.csv"), encoding=name)["train"]["text"][:] == ["good", "bad"]
    assert load_splits(str(tmp_path / "a.csv"))["train"]["text"][:] == ["good", "bad"]


@pytest.mark.parametrize("form", ["torch", "pandas", "arrow"])
def test_a_format_of_a_data_set_hides_nothing(tmp_path, form):
    rows = Dataset.from_dict(ALIKE).add_column("number", [*range(6)])
    rows.set_format(form, columns=["number", "label"] if form == "torch" else None)
    rows.save_to_disk(str(tmp_path / "saved"))
    for source in (rows, str(tmp_path / "saved")):
        split = load_splits(source)["train"]
        assert split["text"][:] == ALIKE["text"] and split["label"][:] == [0, 1] * 3


def test_data_that_changed_within_its_time_and_size_are_read_anew(tmp_path):
    path, found = tmp_path / "a.csv", []
    for one, other in ("xy", "yx"):
        path.write_text(f"text,label\ngood,{one}\nbad,{other}\n")
        os.utime(path, (1, 1))
        found.append(load_splits(str(path))["train"]["label"][:])
    assert found == [[0, 1], [1, 0]]
