import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from bertcls import load_splits
from bertcls.data.encoding import checked_text
from bertcls.data.folders import Files
from bertcls.data.tables import file_format, stream_table

ROWS = [
    {"text": 'Good, and "cheap"', "label": "sport"},
    {"text": "None", "label": "NA"},
    {"text": "two\nlines", "label": "sport"},
]


def read_rows(path: Path, **options) -> Dataset:
    return Files([path]).read(**options)[0]


def plain(path) -> list[dict]:
    return read_rows(path).to_list()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_any_delimiter_keeps_words_that_pandas_takes_for_missing(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    pd.DataFrame(ROWS).to_csv(path, sep=delimiter, index=False)
    assert plain(path) == ROWS


def test_tsv_and_a_delimiter_that_is_given(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\none, two\tx\n")
    (tmp_path / "a.csv").write_text("text^label\none, two^x\n")
    assert plain(tmp_path / "a.tsv") == [{"text": "one, two", "label": "x"}]
    assert read_rows(tmp_path / "a.csv", delimiter="^").to_list() == [{"text": "one, two", "label": "x"}]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\r\n".join(map(json.dumps, ROWS)) + "\r\n\r\n",
        json.dumps(ROWS, indent=1),
        json.dumps({"version": 1, "data": ROWS}),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_in_each_of_its_forms(tmp_path, content, suffix):
    (tmp_path / f"a{suffix}").write_text(content, newline="")
    assert plain(tmp_path / f"a{suffix}") == ROWS


def test_parquet_keeps_class_names(tmp_path):
    names = ClassLabel(names=["no", "yes"])
    Dataset.from_dict({"text": ["a"], "label": [1]}).cast_column("label", names).to_parquet(tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet").features["label"] == names


def test_txt_is_one_text_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\n\ntwo\u2028still two\n", newline="")
    assert plain(tmp_path / "a.txt") == [{"text": "one"}, {"text": "two\u2028still two"}]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_compressed_files(tmp_path, suffix):
    content, path = b"text,label\none,x\n", tmp_path / f"a.csv{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", content)
    else:
        path.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(content))
    assert plain(path) == [{"text": "one", "label": "x"}]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("酒店房间很干净，服务员态度也好。下次还来。", "gb18030"),
        ("Un café très agréable, déçu par la qualité", "latin-1"),
        ("It’s a “fine” café – really", "cp1252"),
        ("Очень хороший фильм и отличный сюжет", "cp1251"),
        ("酒店房間很乾淨，服務員態度也好", "big5"),
        ("naïve 很好", "utf-8-sig"),
        ("naïve 很好", "utf-16"),
        ("naïve 很好", "utf-8"),
    ],
)
def test_encodings_are_detected_or_given(tmp_path, text, encoding, caplog):
    path = tmp_path / "a.tsv"
    path.write_bytes(f"text\tlabel\n{text}\tx\n".encode(encoding))
    assert plain(path)[0]["text"] == text
    assert read_rows(path, encoding=encoding)[0]["text"] == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf_8", "U8", "utf-8-sig"])
def test_a_mark_of_byte_order_is_no_part_of_a_name(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\nfine;x\n", encoding="utf-8-sig")
    assert read_rows(path, encoding=encoding)[:] == {"text": ["fine"], "label": ["x"]}


def test_maps_are_cached_until_the_file_changes(tmp_path):
    path = tmp_path / "a.csv"

    def doubled():
        return read_rows(path).map(lambda row: {"long": row["text"] * 2})

    path.write_text("text\none\n")
    first = doubled()
    assert doubled().cache_files == first.cache_files != []
    path.write_text("text\nother\n")
    assert doubled()[0]["long"] == "otherother"


def test_file_format():
    assert file_format(Path("x/y.v2.json.xz")) == ".json"
    assert file_format("gz") is None


def test_a_binary_file_is_named_by_its_null_byte(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xd8\n\x00\x01\x9d")
    with pytest.raises(ValueError, match="holds a null byte in line 2; expected text"):
        checked_text(tmp_path / "a.csv")


def test_a_folder_per_class(tmp_path):
    for split, name, texts in (
        ("train", "pos", "ab"),
        ("train", "neg", "cd"),
        ("test", "pos", "e"),
        ("test", "neg", "f"),
    ):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_text(f"{text}\n{text}")
    splits = load_splits(str(tmp_path))
    assert list(splits) == ["train", "test"]
    assert splits["train"].features["label"].names == ["neg", "pos"]
    assert splits["test"].to_list() == [
        {"text": "f\nf", "label": 0, "example_id": 4},
        {"text": "e\ne", "label": 1, "example_id": 5},
    ]
    assert load_splits(train_file=str(tmp_path / "train"))["train"].to_list() == splits["train"].to_list()


def test_files_of_each_kind_side_by_side(tmp_path):
    (tmp_path / "Train.csv.gz").write_bytes(gzip.compress(b"text,label\none,x\ntwo,y\n"))
    (tmp_path / "dev.jsonl").write_text('{"text": "three", "label": "y"}')
    splits = load_splits(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "validation": 1}
    (tmp_path / "val.csv").write_text("text,label\none,x\n")
    with pytest.raises(ValueError, match="Found dev.jsonl and val.csv in .*; expected one file for the validation"):
        load_splits(str(tmp_path))


def test_data_frames(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": pd.Categorical(["x", "y", "x"])}, index=[5, 3, 1])
    split = load_splits(frame)["train"]
    assert split["text"][:] == ["a", "b", "c"] and split["label"][:] == [0, 1, 0]
    frame.columns = ["text", "text"]
    with pytest.raises(ValueError, match="Column text of the DataFrame stands twice"):
        load_splits(frame)


def test_quotation_marks_of_a_tsv_are_its_texts(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Hello there\tx\nplain\ty\n"said ""so"""\tx\n"end"\ty\n')
    assert read_rows(tmp_path / "a.tsv")["text"][:] == ['"Hello there', "plain", 'said "so"', "end"]


@pytest.mark.parametrize(
    "content",
    ["text, label,,\none,x,,\n", "text,label\rone,x\r", "\n\ntext,label\r\none,x\r\n", '"te,xt";a,b;label\n'],
)
def test_files_as_programs_write_them(tmp_path, content):
    (tmp_path / "a.csv").write_text(content, newline="")
    if ";" in content:
        with pytest.raises(
            ValueError, match="is empty; expected at least one row"
        ):  # three columns parted by semicolons
            read_rows(tmp_path / "a.csv")
    else:
        assert read_rows(tmp_path / "a.csv").to_list() == [{"text": "one", "label": "x"}]


def test_an_odd_column_does_not_stop_the_others(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x", "n": 1}\n{"text": "b", "label": "y", "n": "one"}\n')
    assert load_splits(str(tmp_path / "a.jsonl"))["train"]["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match="Column n of .* mixes types .int in line 1, str in line 2."):
        load_splits(str(tmp_path / "a.jsonl"), label_column="n")


@pytest.mark.slow
def test_a_long_gb18030_file_is_detected_wherever_it_is_cut(tmp_path):
    for shift in range(3):
        content = "text,label\n" + "x" * shift + "\n".join("酒店房间很干净服务也好,好" for _ in range(50_000))
        (tmp_path / "a.csv").write_bytes(content.encode("gb18030"))
        assert checked_text(tmp_path / "a.csv")().read() == content


def test_a_tsv_that_is_quoted_throughout(tmp_path):
    frame = pd.DataFrame({"text": ['say "so"', "two\nlines", None], "label": ["x", "y", "x"]})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False, quoting=1)
    assert plain(tmp_path / "a.tsv") == [
        {"text": 'say "so"', "label": "x"},
        {"text": "two\nlines", "label": "y"},
        {"text": None, "label": "x"},
    ]
    frame.iloc[[0, 2]].to_csv(tmp_path / "b.tsv", sep="\t", index=False, quoting=1)
    assert plain(tmp_path / "b.tsv") == [{"text": 'say "so"', "label": "x"}, {"text": None, "label": "x"}]


def test_a_file_of_which_nothing_can_be_stored(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 1}\n')
    assert read_rows(tmp_path / "a.jsonl")["text"][:] == [None, None]
    with pytest.raises(ValueError, match="Column text of .*a.jsonl mixes types .str in line 1, int in line 2."):
        load_splits(str(tmp_path / "a.jsonl"), labelled=False)


def streamed(path, **options) -> list[dict]:
    return [row for table in stream_table([path], **options)() for row in table.to_pylist()]


AWKWARD = [{"text": f'line "{i}",\nnext; \t{i}' if i % 3 else f"plain {i}", "label": "NA"} for i in range(30)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".csv.gz", ".jsonl.zip"])
def test_a_streamed_file_is_the_file(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("bertcls.data.tables.ROWS_AT_A_TIME", 7)
    monkeypatch.setattr("bertcls.data.encoding._BYTES_AT_A_TIME", 50)
    path, frame = tmp_path / f"a{suffix}", pd.DataFrame(AWKWARD)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif "csv" in suffix or suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    elif "jsonl" in suffix:
        frame.to_json(path, orient="records", lines=True)
    elif suffix == ".json":
        path.write_text(json.dumps(AWKWARD, indent=1))
    else:
        path.write_text("\n".join(f"Zeile {i} ü" for i in range(30)), encoding="utf-8-sig")
    assert streamed(path) == plain(path) and len(streamed(path)) == 30
    tables = list(stream_table([path])(["text"]))
    assert len(tables) == 5 and all("text" in table.column_names for table in tables)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_blank_lines_are_rows_where_they_are_counted(tmp_path, monkeypatch, rows, line_end):
    monkeypatch.setattr("bertcls.data.tables.ROWS_AT_A_TIME", rows)
    texts = [None, "first", None, None, "second", "third", None]
    lines = line_end.join(text or "" for text in texts) + line_end
    for name, content in {"a.txt": lines, "a.csv": f"{line_end}text{line_end}{lines}"}.items():
        (tmp_path / name).write_text(content, newline="")
        assert [row["text"] for row in streamed(tmp_path / name)] == texts
        assert [row["text"] for row in plain(tmp_path / name)] == ["first", "second", "third"]
        (tmp_path / name).write_text(content.removesuffix(line_end), newline="")  # the last line is not there
        assert len(streamed(tmp_path / name)) == len(texts) - 1
    (tmp_path / "a.csv").write_text('text\n"one\n\nfour"\n""\n\n', newline="")
    assert [row["text"] for row in streamed(tmp_path / "a.csv")] == ["one\n\nfour", None, None]
    (tmp_path / "a.csv").write_text("text,label\na,x\n\nb,y\n\n")
    assert streamed(tmp_path / "a.csv") == plain(tmp_path / "a.csv") and len(plain(tmp_path / "a.csv")) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\na,x\nb,y,z\n"),
        ("a.csv", b"text,label\n"),
        ("a.csv", b"\n \n"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"a\n" * 99)[:-9]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"text": }\n'),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n[1]\n'),
        ("a.json", b'[{"text": "a"},\n{"text": ]'),
        ("a.csv", b"text\na\n" * 40 + b"\xff\xd8\0\n"),
        ("a.csv", "text\nä\n".encode() * 40 + b"\xff\n"),
        ("a.bin", b"text"),
    ],
)
def test_a_streamed_file_is_refused_in_the_same_words(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr("bertcls.data.encoding._BYTES_AT_A_TIME", 50)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as whole:
        read_rows(tmp_path / name)
    with pytest.raises(ValueError) as by_parts:
        streamed(tmp_path / name)
    assert str(by_parts.value) == str(whole.value)


def test_a_broken_parquet_file_is_refused_when_it_is_opened(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="a.parquet cannot be read .*; expected a whole parquet file"):
        stream_table([tmp_path / "a.parquet"])


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig", "cp1251"])
def test_the_encoding_of_a_streamed_file(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr("bertcls.data.encoding._BYTES_AT_A_TIME", 997)  # cuts characters
    line = "Очень хороший фильм и отличный сюжет" if encoding == "cp1251" else "酒店房间很干净，服务员态度也好。"
    rows = [f"only ASCII {i}" for i in range(200)] + [f"{line} {i}" for i in range(200)]
    (tmp_path / "a.csv").write_bytes("\n".join(["text", *rows]).encode(encoding))
    assert [row["text"] for row in streamed(tmp_path / "a.csv")] == rows


def test_what_was_read_of_a_parquet_file_is_not_held(tmp_path):
    path, random = tmp_path / "a.parquet", np.random.default_rng(0)
    texts = [random.bytes(200).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000)
    before, most = pa.total_allocated_bytes(), 0
    for _ in stream_table([path])():
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < path.stat().st_size / 2
