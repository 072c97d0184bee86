"""Labelling rows where something happens to the data, to the parts or to the disk meanwhile."""

import csv
import errno
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import load_recipe
from datasets import Dataset
from helpers import save_model
from test_bulk import refused, run

from bertcls import TextClassifier
from bertcls.data import tables
from bertcls.data.streams import stream_rows
from bertcls.inference import Prediction
from bertcls.serve import bulk
from bertcls.serve.bulk import check_output, describe_prediction, parts_folder
from bertcls.text import STEPS

ROWS = 60


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("predict")


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> str:
    return save_model(encoder_folder, tmp_path_factory.mktemp("model"))


def rows_of(word: str = "film", rows: int = ROWS) -> str:
    return "text,label\n" + "".join(f"good {word} {row},x\n" for row in range(rows))


@pytest.fixture
def words(model, tmp_path) -> list:
    """Of a command that labels `mine.csv`, in parts of 20 rows, as `labels.csv`."""
    (tmp_path / "mine.csv").write_text(rows_of())
    options = {"model_name_or_path": model, "dataset_name": tmp_path / "mine.csv", "rows_per_part": 20}
    options["output_file"] = tmp_path / "labels.csv"
    return [word for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture
def left(recipe, words, tmp_path, monkeypatch):
    """The folder of the parts of a run that was stopped before it joined them."""
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "merge_parts", lambda *_: None)
        run(recipe, *words)
    folder = parts_folder(tmp_path / "labels.csv")
    assert len(list(folder.glob("part-*.parquet"))) == 3
    return folder


def labelled_anew(monkeypatch) -> list:
    """Fills with the first text of each part that is labelled from here on."""
    found, label = [], bulk.label_table

    def spy(classifier, table, **options):
        found.append(table["text"][0].as_py())
        return label(classifier, table, **options)

    monkeypatch.setattr(bulk, "label_table", spy)
    return found


@pytest.mark.parametrize("change", ["other words", "one more row", "one row less"])
def test_data_that_changes_meanwhile_is_refused(recipe, words, tmp_path, monkeypatch, capsys, change):
    after = {"other words": rows_of("room"), "one more row": rows_of(rows=61), "one row less": rows_of(rows=59)}
    opened = recipe.open_parts

    def change_and_open(*given, **options):
        (tmp_path / "mine.csv").write_text(after[change])
        return opened(*given, **options)

    monkeypatch.setattr(recipe, "open_parts", change_and_open)
    line = refused(capsys, recipe, *words)
    assert "Found other rows (" in line and "--overwrite_output" in line
    assert not (tmp_path / "labels.csv").exists()
    monkeypatch.setattr(recipe, "open_parts", opened)
    (tmp_path / "mine.csv").write_text(rows_of())  # as at the first reading: the parts of other rows do not stay
    run(recipe, *words)
    table = pd.read_csv(tmp_path / "labels.csv")
    assert len(table) == ROWS and table["text"].str.contains("film").all()


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "a bit": lambda content: content[:900] + bytes([content[900] ^ 4]) + content[901:],
    "zeros": lambda content: bytes(len(content)),
    "nothing": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_that_was_damaged_is_labelled_anew(recipe, words, left, tmp_path, monkeypatch, damage):
    part, anew = left / "part-000001.parquet", labelled_anew(monkeypatch)
    part.write_bytes(DAMAGES[damage](part.read_bytes()))
    run(recipe, *words)
    assert anew == ["good film 20"] and len(pd.read_csv(tmp_path / "labels.csv")) == ROWS


def test_a_part_without_its_record_is_labelled_anew(recipe, words, left, monkeypatch):
    anew = labelled_anew(monkeypatch)
    (left / "part-000000.json").unlink()
    (left / "part-000002.parquet").unlink()
    run(recipe, *words)
    assert anew == ["good film 0", "good film 40"]


@pytest.mark.parametrize("what", ["versions", "code"])
def test_parts_of_another_program_are_refused(recipe, words, left, capsys, monkeypatch, what):
    if what == "versions":
        monkeypatch.setattr(bulk, "version", lambda name: "0.0.1")
    else:
        monkeypatch.setattr(Path, "read_bytes", lambda self: b"other code")
    assert f"Found parts of a run with another {what} in" in refused(capsys, recipe, *words)
    manifest = json.loads((left / "manifest.json").read_text())
    assert manifest["versions"].keys() == {"torch", "transformers", "tokenizers"} and len(manifest["code"]) == 64


def test_other_cleaning_steps_are_another_program(recipe, words, left, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def nothing(text):\n    return text\n")
    line = refused(capsys, recipe, *words, "--steps", tmp_path / "mine.py")
    del STEPS["nothing"]
    assert "Found parts of a run with another steps in" in line


@pytest.mark.parametrize("content", ["", "{", "[" * 99_999, "null", "[1]", '"text"', '{"model": ' + "1" * 5000 + "}"])
def test_a_broken_manifest_is_one_line(recipe, words, left, capsys, content):
    (left / "manifest.json").write_text(content)
    line = refused(capsys, recipe, *words)
    assert "manifest.json unreadable (" in line and "--overwrite_output" in line
    run(recipe, *words, "--overwrite_output")


def test_a_full_disk_is_one_line(recipe, words, tmp_path, capsys, monkeypatch):
    write, full = pq.write_table, OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(bulk.pq, "write_table", lambda table, path: (_ for _ in ()).throw(full))
    line = refused(capsys, recipe, *words)
    assert "A disk is full (" in line and "Free some, and start the command again." in line
    monkeypatch.setattr(bulk.pq, "write_table", write)
    run(recipe, *words)
    assert len(pd.read_csv(tmp_path / "labels.csv")) == ROWS


def test_an_output_that_exists_and_a_data_set_of_the_hub(recipe, words, tmp_path, monkeypatch, capsys):
    rows = Dataset.from_dict({"text": ["good film", "bad"]})
    monkeypatch.setattr("bertcls.data.folders.find_splits", lambda *_, **__: {"train": rows})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("of an earlier run")
    words = [*words, "--dataset_name", "someone/films"]
    assert "expected no such file" in refused(capsys, recipe, *words)
    run(recipe, *words, "--overwrite_output")
    assert len(pd.read_csv(tmp_path / "labels.csv")) == 2


# ------------------------------------------------------------------------------------------------ columns and cells


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_the_columns_of_the_data_are_kept(recipe, model, tmp_path, suffix):
    """Of records that do not all have the same ones, and of names that the answers have, too."""
    rows = [
        {"id": f"k{row}", "text": f"good, film\n{row}", "label": "old", "input_label": 1, "tags": ["a", "é"]}
        for row in range(30)
    ]
    rows[25] |= {"late": 2.5, "label": None, "text": None}
    rows[26] |= {"late": float("nan")}
    rows[27] |= {"tags": ["a", "é"], "numbers": [1.0, float("nan")]}
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / f"labels{suffix}"
    words = ["--model_name_or_path", model, "--dataset_name", tmp_path / "mine.jsonl", "--rows_per_part", "20"]
    run(recipe, *words, "--output_file", output)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True)}
    table = read[suffix](output)
    kept = ["input_id", "text", "input_label", "input_input_label", "tags", "late", "numbers"]
    assert table.columns.tolist() == ["id", *kept, "label", "score", "probability_bad", "probability_good"]
    assert table["id"].tolist() == list(range(30)) and table["input_id"].tolist() == [row["id"] for row in rows]
    assert table["text"].dropna().tolist() == [row["text"] for row in rows if row["text"]]
    assert suffix != ".jsonl" or "NaN" not in output.read_text()
    assert table["late"].dropna().tolist() == [2.5] and table["input_input_label"].tolist() == [1] * 30
    expected = TextClassifier.from_pretrained(model, device="cpu").predict(
        [row["text"] for row in rows if row["text"]]
    )
    assert table["label"].dropna().tolist() == [answer.label for answer in expected]
    tags = table["tags"][0]
    assert (json.loads(tags) if isinstance(tags, str) else [*tags]) == ["a", "é"]
    run(recipe, *words, "--output_file", output, "--keep_columns", "false", "--overwrite_output", "--id_column", "id")
    table = read[suffix](output)
    assert table.columns.tolist() == ["id", "label", "score", "probability_bad", "probability_good"]
    assert table["id"].tolist() == [row["id"] for row in rows]


def test_a_csv_has_no_formula_and_lists_as_the_page_writes_them(recipe, encoder_folder, tmp_path):
    names = {0: "=HYPERLINK(1)", 1: "@b", 2: "c"}
    options = {"problem_type": "multi_label_classification", "id2label": names, "thresholds": [0.0, 0.0, 2.0]}
    many = save_model(encoder_folder, tmp_path / "many", **options)
    one = save_model(encoder_folder, tmp_path / "one", id2label={0: "=1+1", 1: "-x"})
    (tmp_path / "mine.csv").write_text("text\n=kept\n")
    for model, label in ((many, {"'=HYPERLINK(1);@b"}), (one, {"'=1+1", "'-x"})):  # noqa: F402
        words = ["--model_name_or_path", model, "--dataset_name", tmp_path / "mine.csv"]
        run(recipe, *words, "--output_file", f"{model}.csv")
        with open(f"{model}.csv", newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert row["label"] in label and row["text"] == "=kept"


@pytest.mark.slow
def test_columns_that_no_file_can_keep_are_one_line(recipe, words, model, tmp_path, capsys):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a", "n": 1}\n' * 5000 + '{"text": "a", "n": "x"}\n')
    words = [*words, "--dataset_name", path]
    assert "mixes types" in (line := refused(capsys, recipe, *words)) or "change their types" in line
    assert "--keep_columns false" in line
    run(recipe, *words, "--keep_columns", "false")
    deep = '{"text": "a", "n": ' + "[" * 300 + "]" * 300 + "}\n"
    path.write_text(deep)
    assert "--keep_columns false" in refused(capsys, recipe, *words, "--overwrite_output")
    path.write_text(deep.replace("[", "[" * 400).replace("]", "]" * 400))
    assert "nested too deeply" in refused(capsys, recipe, *words, "--overwrite_output")


def test_a_cell_of_gigabytes_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BYTES_OF_ROWS", 1 << 20)
    path, long = tmp_path / "a.parquet", "a" * (1 << 21)
    pq.write_table(pa.table({"text": ["short"] * 99 + [long]}), path, compression="zstd")
    assert os.path.getsize(path) < 9000
    with pytest.raises(ValueError, match="rows of which 4096 take 0.0 GiB; expected at most"):
        stream_rows(str(path))
    many = ["short"] * 9000
    pq.write_table(pa.table({"text": many + [long] + many}), path, compression="zstd")  # seen when it is read
    with pytest.raises(ValueError, match="rows of which 4096 take"):
        list(stream_rows(str(path))())
    pq.write_table(pa.table({"text": many * 9, "image": ["b" * 99] * 9 * len(many)}), path, compression="zstd")
    assert sum(map(len, stream_rows(str(path))())) == 9 * len(many)


def test_the_parts_of_an_output_are_not_its_data(tmp_path):
    parts = parts_folder(tmp_path / "out.csv")
    parts.mkdir()
    with pytest.raises(ValueError, match="among the parts of --output_file"):
        check_output(tmp_path / "out.csv", source=str(parts / "part-000000.parquet"), overwrite=True)


def test_a_name_with_a_line_end_stays_in_its_line():
    assert describe_prediction(Prediction("very\ngood\x1b", 0.5, {})) == "very good \t0.5000"
