import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLE, TINY, real_path
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets

from bertcls import RecipeArguments, audit_run, load_splits
from bertcls.audit import LEAK_EXIT_CODE, audit_splits, drop_leaked, format_audit, main
from bertcls.data.splits import arrange_splits, split_dataset
from bertcls.report.write import _audited
from bertcls.text import comparison_key
from bertcls.training.launch import parse

TRAIN = [
    ("A fine film about a small town", "pos"),  # 0
    ("a FINE film, about a small town!", "neg"),  # 1 the same after normalisation, another label
    ("Bad acting and a worse script all the way through", "neg"),  # 2
    ("<b>Dull</b> &amp; long", "Neg "),  # 3
    ("", "pos"),  # 4
    ("Unlike anything else", "pos"),  # 5
    ("Unlike anything else", "pos"),  # 6
]
TEST = [
    ("Unlike anything else", "pos"),  # 7 to the letter, twice in train
    ("unlike anything, else", "pos"),  # 8 after normalisation
    ("A worse script all the way", "neg"),  # 9 a part of 2
    ("worse script", "neg"),  # 10 too short to count
    ("worse script all the ways", "neg"),  # 11 not word for word
]


def write(folder, **splits):
    for name, rows in splits.items():
        text = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return load_splits(str(folder))


@pytest.fixture
def splits(tmp_path):
    return write(tmp_path, train=TRAIN, test=TEST)


def test_findings(splits):
    found = audit_splits(splits)
    assert found["duplicates"] == {"train": {"exact": 1, "normalised": 2}, "test": {"exact": 0, "normalised": 1}}
    leak = found["leaks"]["test in train"]
    assert {kind: leak[kind] for kind in ("rows", "exact", "normalised", "contained")} == {
        "rows": 5,
        "exact": 1,
        "normalised": 1,
        "contained": 1,
    }
    assert leak["contained_examples"] == [9]
    assert found["dropped"] == [2, 5, 6] and found["leaked"]
    assert found["contradictions"] == {"train": 1, "test": 0, "all": 1}
    assert found["alike_labels"] == [["Neg", "neg"]]
    assert found["missing_labels"] == {"test": ["Neg"]}
    assert found["texts"]["train"]["empty"] == 1 and found["texts"]["train"]["empty_examples"] == [4]
    assert found["texts"]["train"]["html_examples"] == [3]
    assert json.loads(json.dumps(found)) == found


def test_dropping_takes_the_train_side(splits):
    mended = drop_leaked(splits, audit_splits(splits))
    assert mended["train"]["example_id"][:] == [0, 1, 3, 4]
    assert mended["test"]["example_id"][:] == splits["test"]["example_id"][:]
    assert not audit_splits(mended)["leaked"]


def test_of_validation_and_test_the_validation_side_goes(tmp_path):
    splits = write(tmp_path, train=TRAIN, validation=TEST[:1], test=TEST[:1])
    mended = drop_leaked(splits, audit_splits(splits))
    assert [len(mended[name]) for name in ("train", "validation", "test")] == [5, 0, 1]


def test_pairs_are_compared_as_pairs():
    pairs = {"train": [("a b c d e", "x")], "test": [("a b c d e", "y"), ("A b c d e.", "X"), ("b c d e", "x")]}
    from datasets import Dataset, DatasetDict

    splits, number = DatasetDict(), 0
    for name, rows in pairs.items():
        columns = {"text": [a for a, _ in rows], "text_pair": [b for _, b in rows], "label": ["l"] * len(rows)}
        ids = list(range(number, number + len(rows)))
        splits[name] = Dataset.from_dict(columns | {"example_id": ids}).class_encode_column("label")
        number += len(rows)
    leak = audit_splits(splits)["leaks"]["test in train"]
    assert (leak["exact"], leak["normalised"], leak["contained"]) == (0, 1, 0)


def test_chinese_texts_are_found_in_longer_ones(tmp_path):
    train = [("这家酒店的早餐非常好吃，房间也干净", "好"), ("一般", "差")]
    splits = write(tmp_path, train=train, test=[("酒店的早餐非常好吃。", "好"), ("房间也干净", "好")])
    assert audit_splits(splits)["leaks"]["test in train"]["contained_examples"] == [2]  # 5 characters are too few


def test_keys():
    assert comparison_key("<p>It's “fine”…</p>") == "its fine"
    assert comparison_key("好，很好！") == "好很好"
    assert comparison_key("3 < 4") == "3 4"


def test_the_table_names_every_finding(splits, tokenizer):
    table = format_audit(audit_splits(splits, tokenizer=tokenizer))
    for words in (
        "LEAK, test in train: 1 of 5 rows to the letter, 1 more after normalisation, 1 more as part",
        "CONTRADICTION: 1 texts",
        "LABELS that differ only in case, blanks or what is not seen: 'Neg', 'neg' (1, 2 rows of train)",
        "LABELS missing from test: Neg",
        "cut by 128 tokens: texts, tokens",
    ):
        assert words in table


def test_the_table_of_many_labels_is_short(tmp_path):
    splits = write(
        tmp_path, train=[(f"text {n} of many", f"label {n // 2}") for n in range(400)], test=[("a", "label 0")]
    )
    lines = format_audit(audit_splits(splits)).splitlines()
    assert len(lines) < 60 and any(line.startswith("and 160 more labels") for line in lines)
    assert lines[-1].startswith("LABELS missing from test: label 1, ") and lines[-1].endswith(" and 159 more")


def test_cut_tokens_are_counted(tmp_path, tokenizer):
    splits = write(tmp_path, train=[("film " * 198, "a"), ("film", "b")])  # 200 and 3 tokens with the special ones
    assert audit_splits(splits, tokenizer=tokenizer)["cut"]["train"] == {
        "rows": 2,
        "128": {"texts": 0.5, "tokens": 72 / 203},
        "256": {"texts": 0.0, "tokens": 0.0},
        "512": {"texts": 0.0, "tokens": 0.0},
    }


@pytest.mark.parametrize("on_leak", ["warn", "drop", "error"])
def test_a_run_acts_on_a_leak(splits, tokenizer, tmp_path, on_leak):
    args, training_args = parse(RecipeArguments, ["--output_dir", str(tmp_path / "run")], defaults={})
    options = {"tokenizer": tokenizer, "run_dir": args.run_dir, "on_leak": on_leak}
    if on_leak == "error":
        with pytest.raises(ValueError, match="Found 3 rows of train or validation that stand in a split"):
            audit_run(splits, **options)
    else:
        assert len(audit_run(splits, **options)["train"]) == {"warn": 7, "drop": 4}[on_leak]
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert found["dropped"] == [2, 5, 6]
    assert "TAKEN OUT" not in format_audit(audit_splits(splits, tokenizer=tokenizer))  # which is remembered
    assert ("TAKEN OUT: 3 leaking rows" in format_audit(found)) == (on_leak == "drop")
    shown = _audited(found, "dev")
    assert shown["leaked"] == (on_leak != "drop")
    assert shown["lines"][0].split() == ["train", "dev"]  # as the report calls them
    assert any(line.startswith("LEAK, dev in train") for line in shown["lines"])


@pytest.mark.slow
def test_the_command(splits, tmp_path):
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "bertcls.audit"]
    words = [str(tmp_path), "--output_dir", str(tmp_path / "out"), "--model_name_or_path", str(TINY)]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == LEAK_EXIT_CODE == 3, done.stderr
    assert "LEAK, test in train" in done.stdout and (tmp_path / "out" / "audit.json").is_file()
    clean = subprocess.run([*command, str(SAMPLE), "--output_dir", str(tmp_path)], capture_output=True, text=True)
    assert clean.returncode == 0, clean.stderr
    bad = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True)
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("sample", ["reviews", "pairs", "chinese", "long"])
def test_our_samples_are_clean(sample):
    columns = {"text_column": "sentence1", "text_pair_column": "sentence2"} if sample == "pairs" else {}
    found = audit_splits(load_splits(str(SAMPLE.parent / sample), **columns))
    assert not found["leaked"] and not found["contradictions"]["all"]
    assert all(counts == {"exact": 0, "normalised": 0} for counts in found["duplicates"].values())


@pytest.mark.real
def test_known_facts_of_sst2():
    splits = load_splits(real_path("BERTCLS_DATA") + "/sst2")
    found = audit_splits(splits)
    assert found["duplicates"]["train"] == {"exact": 371, "normalised": 8734}
    assert found["contradictions"]["train"] == 152
    official = found["leaks"]["validation in train"]
    assert (official["exact"], official["exact"] + official["normalised"]) == (0, 2)
    joined = concatenate_datasets([splits["train"], splits["validation"]])
    expected = {10_000: (1000, 0.0, 0.035, 0.325), None: (6823, 0.007, 0.200, 0.841)}
    for rows, shares in expected.items():
        parts = split_dataset(joined.select(range(rows or len(joined))), "8:1:1", together=False)
        leak = audit_splits(parts)["leaks"]["test in train"]
        total, exact, normalised, long = shares
        assert leak["rows"] == total
        assert leak["exact"] / total == pytest.approx(exact, abs=0.0005)
        assert (leak["exact"] + leak["normalised"]) / total == pytest.approx(normalised, abs=0.0005)
        assert leak["long_found"] / leak["long_rows"] == pytest.approx(long, abs=0.0005)


@pytest.mark.real
def test_known_facts_of_imdb():
    found = audit_splits(load_splits(real_path("BERTCLS_DATA") + "/imdb"))
    leak = found["leaks"]["test in train"]
    assert (leak["exact"], leak["exact"] + leak["normalised"]) == (52, 123)
    assert [found["duplicates"][name]["exact"] for name in ("train", "test")] == [97, 199]


@pytest.mark.slow
def test_memory_grows_by_a_few_arrays(tmp_path):
    rows = 20_000
    words = np.random.default_rng(0).integers(50_000, size=(rows, 12))
    texts = [" ".join(f"w{number}" for number in row) for row in words]
    pq.write_table(pa.table({"text": texts, "label": ["no", "yes"] * (rows // 2)}), tmp_path / "a.parquet")
    del texts, words

    def peak(work: Callable) -> tuple:
        tracemalloc.start()
        found = work()
        bytes_of_all = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, bytes_of_all / rows

    few = pd.DataFrame({"text": [f"text {row}" for row in range(60)], "label": [0, 1] * 30})
    audit_splits(arrange_splits(load_splits(few))[0])  # what is imported only then
    splits, loading = peak(lambda: load_splits(train_file=str(tmp_path / "a.parquet")))
    parts, arranging = peak(lambda: arrange_splits(splits)[0])
    _, auditing = peak(lambda: audit_splits(parts))
    assert max(loading, arranging, auditing) < 400  # bytes a row; a string alone has 50 beside its characters


def test_the_command_does_not_overwrite_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.json").write_text('[{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]')
    with pytest.raises(ValueError, match="Found --output_dir .*audit.json in audit.json, which is read"):
        main(["audit.json"])


def test_texts_that_are_empty_are_neither_equal_nor_contradictory():
    rows = {"text": ["a film", "", " ", "", "A film!"], "label": [0, 1, 0, 1, 0], "example_id": [*range(5)]}
    features = Features(text=Value("string"), label=ClassLabel(names=["no", "yes"]), example_id=Value("int64"))
    found = audit_splits(DatasetDict(train=Dataset.from_dict(rows, features=features)))
    assert found["duplicates"]["train"] == {"exact": 0, "normalised": 1}
    assert found["contradictions"] == {"train": 0, "all": 0}
