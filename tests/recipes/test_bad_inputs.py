"""What people bring and what they are told: one line that says what was found, what was expected and what to do.

Each case is a command line of the template and the files beside it. None may end in a traceback, start to train, or
touch what is already written.
"""

import bz2
import gzip
import json

import pandas as pd
import pytest
from conftest import TINY, load_recipe
from datasets import ClassLabel, Dataset

from bertcls import RecipeArguments
from bertcls.process import one_line_errors
from bertcls.training.launch import parse

ROWS = [(f"text number {i} of this file", ["bad", "good"][i % 2]) for i in range(40)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
JSONL = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)


def jsonl(*rows: dict, good: int = 40) -> str:
    return "".join(JSONL.splitlines(keepends=True)[:good]) + "".join(json.dumps(row) + "\n" for row in rows)


def parquet(tmp_path, frame: pd.DataFrame) -> bytes:
    frame.to_parquet(tmp_path / "made.parquet", index=False)
    return (tmp_path / "made.parquet").read_bytes()


def classes(tmp_path, name: str, *names: str) -> bytes:
    """A parquet file with declared classes; beside it a test file with others."""
    for split, declared in (("test", ["no", "maybe"]), (name, list(names))):
        rows = Dataset.from_dict({"text": TEXTS, "label": [i % 2 for i in range(40)]})
        rows.cast_column("label", ClassLabel(names=declared)).to_parquet(tmp_path / f"{split}.parquet")
    return (tmp_path / f"{name}.parquet").read_bytes()


LABELS = [label for _, label in ROWS]
TEXTS = [text for text, _ in ROWS]

# name: file name, its content (text, bytes, or a function of a folder), options, a part of the message
CASES = {
    # the file
    "no file": (None, None, ["--train_file", "none.csv"], "No file found at none.csv; expected a .csv"),
    "no data at all": (None, None, [], "Found no data; expected a data set or a file. Give --dataset_name"),
    "no such data set": (
        None,
        None,
        ["--dataset_name", "no/such"],
        "No data set found at 'no/such'; expected a Hub id",
    ),
    "empty file": ("a.csv", "", [], "a.csv is empty; expected at least one row"),
    "blank file": ("a.jsonl", " \n\n", [], "a.jsonl is empty"),
    "a byte order mark alone": ("a.csv", b"\xef\xbb\xbf", [], "a.csv is empty"),
    "one bad byte": (
        "a.csv",
        CSV.replace("number", "número").encode() + b"caf\xe9,bad\n",
        [],
        "a.csv is not utf-8: byte e9 in line 42",
    ),
    "nested JSON lines": ("a.jsonl", JSONL + "[" * 100_000, [], "nested too deeply"),
    "a README.md that is no YAML": (
        "hub/README.md",
        "---\nconfigs:\n- {a: [\n---\n",
        ["--dataset_name", "hub"],
        "hub cannot be read",
    ),
    "a data set script": ("hub/hub.py", "", ["--dataset_name", "hub"], "hub cannot be read"),
    "a header and no rows": (
        "a.csv",
        "text,label\n",
        [],
        "a.csv is empty; expected at least one row (of a csv, below its header)",
    ),
    "an empty JSON list": ("a.json", "[]", [], "a.json is empty; expected at least one row"),
    "another kind of file": ("a.xlsx", CSV, [], "a.xlsx is of an unknown kind; expected the ending .csv"),
    "a binary file": ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xd9", [], "holds a null byte in line"),
    "a null byte": ("a.csv", CSV.replace("number 3", "num\0ber 3"), [], "holds a null byte in line 5; expected text"),
    "truncated parquet": (
        "a.parquet",
        lambda folder: parquet(folder, pd.DataFrame({"text": TEXTS, "label": LABELS}))[:-30],
        [],
        "a.parquet cannot be read",
    ),
    "no parquet at all": ("a.parquet", CSV, [], "expected a whole parquet file"),
    "truncated gzip": ("a.csv.gz", gzip.compress(CSV.encode())[:60], [], "expected a whole .gz file"),
    "no bz2 at all": ("a.csv.bz2", CSV, [], "a.csv.bz2 cannot be unpacked"),
    "truncated bz2": ("a.csv.bz2", bz2.compress(CSV.encode())[:-9], [], "expected a whole .bz2 file with"),
    "no zip at all": ("a.csv.zip", CSV, [], "a.csv.zip cannot be unpacked"),
    "a broken JSON line": ("a.jsonl", JSONL + '{"text": "x", "lab\n' + JSONL, [], "is not valid JSON in line 41"),
    "a broken JSON list": ("a.json", '[{"text": "x"},\n{"text": ]', [], "is not valid JSON in line 2"),
    "JSON that is no objects": ("a.jsonl", '"one"\n"two"\n', [], "holds a str as line 1; expected an object"),
    "JSON nested without end": ("a.json", "[" * 100_000, [], "is not valid JSON"),
    "a wrong encoding": (
        "a.csv",
        CSV.replace("number 3 ", "número ").encode("latin-1"),
        ["--encoding", "utf-8"],
        "line 5",
    ),
    "an unknown encoding": ("a.csv", CSV, ["--encoding", "utf-9"], "Found --encoding utf-9; expected one that Python"),
    "a lone surrogate": ("a.jsonl", jsonl({"text": "\ud800 x", "label": "bad"}), [], "(a lone surrogate) in line 41"),
    # its table
    "wrong delimiter": ("a.csv", CSV.replace(",", "^"), [], "Found the columns text^label in the data"),
    "a delimiter of two": ("a.csv", CSV, ["--delimiter", ",,"], "Found --delimiter ',,'; expected one character"),
    "missing column": (
        "a.csv",
        CSV,
        ["--text_column", "body"],
        "Found the columns text, label in the data; expected body",
    ),
    "no known column": ("a.csv", CSV.replace("text,label", "words,class"), [], "expected text or sentence or content"),
    "no header line": ("a.csv", CSV.split("\n", 1)[1], [], "Found the columns text number 0 of this file, bad"),
    "duplicate column names": (
        "a.csv",
        "text,text,label\na,b,c\n",
        [],
        "Column text of a.csv stands twice; expected different names",
    ),
    "a row too long": ("a.csv", CSV + "a text, with a comma,bad\n", [], "line 42"),
    "a quote without end": ("a.csv", CSV + '"a text, or two,bad\n', [], "cannot be read (line 42: "),
    "text and label the same": ("a.csv", CSV, ["--label_column", "text"], "expected different ones"),
    "no pair column": (
        "a.csv",
        CSV,
        ["--text_pair_column", "other"],
        "expected other. Name the right one with --text_p",
    ),
    # its texts
    "NaN texts": (
        "a.csv",
        CSV + ",bad\n",
        [],
        "Found 1 rows without a text or label (-1 or empty) in train, the first at line 42 of a.csv",
    ),
    "null texts": ("a.jsonl", jsonl({"text": None, "label": "bad"}), [], "Found 1 rows without a text or label"),
    "numbers as texts": (
        "a.csv",
        "text,label\n" + "1.5,bad\n3,good\n" * 20,
        [],
        "Column text holds nothing but numbers",
    ),
    "numbers as JSON texts": (
        "a.jsonl",
        jsonl({"text": 3, "label": "bad"}, good=0) * 9,
        ["--label_column", "label"],
        "Column text of the data holds int64, expected strings",
    ),
    "a number among texts": (
        "a.jsonl",
        jsonl({"text": 3, "label": "bad"}),
        [],
        "mixes types (str in line 1, int in line 41)",
    ),
    "lists as texts": (
        "a.jsonl",
        "".join(jsonl({"text": ["a"], "label": k}, good=0) for k in LABELS),
        [],
        "expected strings",
    ),
    # its labels
    "one class only": ("a.csv", CSV.replace("bad", "good"), [], "Found only the label good in column label"),
    "mixed label types": ("a.jsonl", jsonl({"text": "x", "label": 1}), [], "Column label of"),
    "1-based labels of two classes": (
        "hub/README.md",
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: t.jsonl}\ndataset_info:\n"
        "  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n"
        "        names:\n          '0': 'no'\n          '1': 'yes'\n---\n",
        ["--dataset_name", "hub"],
        "Found the labels 2 in train; expected one of no, yes",
    ),
    "missing labels": (
        "a.csv",
        CSV + "a text,\n",
        [],
        "Found 1 rows without a text or label (-1 or empty) in train, the first at line 42 of a.csv",
    ),
    "hidden labels": ("a.csv", CSV + "a text,-1\n", [], "Found 1 rows without a text or label"),
    "a class called -1": (
        "a.csv",
        CSV.replace(",bad", ",-1").replace(",good", ",1"),
        [],
        "Found 20 rows without a text or label (-1 or empty) in train, the first at line 2 of a.csv",
    ),
    "a label only in test": (
        "a.csv",
        CSV,
        ["--test_file", "test.csv"],
        "Found the labels new in test; expected one of bad",
    ),
    "texts as labels": (
        "a.csv",
        "text,label\n" + "".join(f"one {i},two {i}\n" for i in range(99)),
        [],
        "Found 99 different labels in 99 rows",
    ),
    "whole numbers with decimals": (
        "a.csv",
        "text,label\n" + "a b,1.0\nc d,2.0\n" * 9,
        [],
        "Say which: --problem_type",
    ),
    "a word among numbers": (
        "a.csv",
        "text,label\n" + "a b,1.5\nc d,2.5\n" * 9 + "e f,high\n",
        ["--problem_type", "regression"],
        "Found the label 'high' of train in line 20 of a.csv; expected a number",
    ),
    "an infinite number": (
        "a.csv",
        "text,label\n" + "a b,1.5\nc d,1e999\n" * 9,
        [],
        "Found the label '1e999' of train in line 3 of a.csv; expected a number",
    ),
    "a list in a single-label column": (
        "a.jsonl",
        jsonl({"text": "x", "label": ["bad"]}),
        [],
        "mixes types (str in line 1",
    ),
    "lists called single": (
        "a.jsonl",
        "".join(jsonl({"text": "x", "label": [label]}, good=0) for label in LABELS),
        ["--problem_type", "single_label_classification"],
        "Found lists of labels in column label",
    ),
    "single labels called several": (
        "a.csv",
        CSV,
        ["--problem_type", "multi_label_classification"],
        "--label_delimiter",
    ),
    "objects as labels": (
        "a.jsonl",
        "".join(jsonl({"text": "x", "label": {"a": k}}, good=0) for k in LABELS),
        [],
        "of type",
    ),
    "vectors as labels": (
        "a.jsonl",
        "".join(jsonl({"text": k, "label": [0, 1, 1]}, good=0) for k in TEXTS),
        [],
        "not vectors",
    ),
    "one-hot vectors as labels": (
        "a.jsonl",
        "".join(jsonl({"text": text, "label": [float(k == "bad"), float(k != "bad")]}, good=0) for text, k in ROWS),
        [],
        "Found the vector 1, 0 in column label; expected lists of names, not vectors",
    ),
    "vectors in cells": (
        "a.csv",
        CSV.replace("bad", "0 1").replace("good", "1 0"),
        ["--label_delimiter", " "],
        "Found the vector 0, 1 in column label",
    ),
    "one number only": (
        "a.csv",
        "text,label\n" + "a b,1.5\nc d,1.5\n" * 9,
        [],
        "Found only the label 1.5 in column label",
    ),
    "another class in the test file": (
        "a.parquet",
        lambda folder: classes(folder, "train", "no", "yes"),
        ["--test_file", "test.parquet"],
        "Found the labels maybe in test; expected one of no, yes",
    ),
    # options
    "an unknown option": ("a.csv", CSV, ["--train_fil", "a.csv"], "Found the unknown option --train_fil; expected"),
    "an unknown cleaning step": (
        "a.csv",
        CSV,
        ["--cleaning", "lower"],
        "Found the cleaning step 'lower'; expected one of",
    ),
    "two sources": (
        "a.csv",
        CSV,
        ["--dataset_name", "x", "--train_file", "a.csv"],
        "Found --dataset_name with --train_file",
    ),
    "weights of a regression": (
        "a.csv",
        "text,label\n" + "".join(f"a {i},{i}.5\n" for i in range(40)),
        ["--class_weights", "balanced"],
        "which has no classes",
    ),
    "smoothing of a regression": (
        "a.csv",
        "text,label\n" + "".join(f"a {i},{i}.5\n" for i in range(40)),
        ["--label_smoothing_factor", "0.1"],
        "Found --label_smoothing_factor with regression",
    ),
    "smoothing of several labels": (
        "a.csv",
        CSV.replace("bad", "bad;good"),
        ["--label_delimiter", ";", "--label_smoothing_factor", "0.1"],
        "Found --label_smoothing_factor with multi_label_classification",
    ),
    "votes of several labels": (
        "a.csv",
        CSV.replace("bad", "bad;good"),
        ["--label_delimiter", ";", "--window_pooling", "vote"],
        "window_pooling='vote' found with multi_label",
    ),
    "windows without room": (
        "a.csv",
        CSV,
        ["--max_length", "32", "--overlap", "31"],
        "Found --overlap 31 with --max_length",
    ),
    "adapters wider than the encoder": (
        "a.csv",
        CSV,
        ["--from_scratch", "false", "--model_name_or_path", str(TINY.parent / "encoder"), "--lora_rank", "999"],
        "Found --lora_rank 999; expected 1 to",
    ),
    "adapters of an encoder that has learnt nothing": (
        "a.csv",
        CSV,
        ["--lora_rank", "8"],
        "with --from_scratch; expected",
    ),
    "a metric of another task": ("a.csv", CSV, ["--metric_for_best_model", "r2"], "Found --metric_for_best_model r2"),
    "a leak that is to stop": (
        "a.csv",
        CSV,
        ["--test_file", "leak.csv", "--on_leak", "error"],
        "Found 1 rows of train",
    ),
}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("csv_finetune")


def test_there_are_at_least_fifty():
    assert len(CASES) >= 50


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_line(case, recipe, tmp_path, monkeypatch, capsys):
    name, content, options, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.csv").write_text("text,label\nsomething else,new\n")
    (tmp_path / "leak.csv").write_text(f"text,label\n{TEXTS[0]},bad\n")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "t.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    if name is not None:
        content = content(tmp_path) if callable(content) else content
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if not {"--dataset_name", "--train_file"} & set(options):
            options = ["--train_file", name, *options]
    words = ["--model_name_or_path", str(TINY), "--from_scratch", "--output_dir", "run", *options]
    with pytest.raises(SystemExit) as ended, one_line_errors():
        recipe.main(*parse(RecipeArguments, words, defaults=recipe.DEFAULTS))
    said = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in said if line.startswith("error")]
    assert ended.value.code == 2
    assert len(lines) == 1 and message in lines[0], said
    assert not any("Traceback" in line for line in said)
    written = {path.name for path in (tmp_path / "run").rglob("*")} if (tmp_path / "run").exists() else set()
    assert written <= {"checkpoints", "audit.json", ".lock"}  # nothing was trained


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "مرحبا بالعالم، هذا فيلم رائع",  # right to left
        "שלום עולם",
        "👩‍👩‍👧‍👦 😀😀 🇨🇳",
        "e\u0301\u0323\u0301" * 50,
        "\u202etxet a",
        "a\u0085b\u2028c",
        "=1+1",
        "<script>alert(1)</script>",
        "x" * 10_000_000,  # a cell of 10 MB
    ],
    ids=["arabic", "hebrew", "emoji", "accents", "override", "separators", "formula", "script", "10 MB"],
)
def test_odd_texts_are_texts(text, tmp_path):
    from bertcls import load_splits, load_tokenizer, tokenize_windows

    pd.DataFrame({"text": [text, "a"], "label": ["x", "y"]}).to_csv(tmp_path / "a.csv", index=False)
    split = load_splits(str(tmp_path / "a.csv"))["train"]
    assert split["text"][0] == text
    windows = tokenize_windows(split[:1], tokenizer=load_tokenizer(str(TINY)), max_length=32)
    assert len(windows["input_ids"][0]) >= 1
