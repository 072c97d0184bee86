"""Labelling any number of rows: the recipe as people run it, killed and started again, on one process and on two."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from conftest import ROOT, SAMPLE, load_recipe, wait_until
from datasets import ClassLabel
from filelock import FileLock
from helpers import save_model

from bertcls import TextClassifier, export_onnx, load_splits
from bertcls.data.streams import stream_rows
from bertcls.process import one_line_errors
from bertcls.report.scores import score_reported
from bertcls.serve.bulk import digest_of, merge_parts, parts_folder, start_processes
from bertcls.training.options import parse_options

ROWS, ROWS_PER_PART = 1000, 40


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> str:
    return save_model(encoder_folder, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A csv file with texts of 1 to 60 words, 10 of them missing."""
    draw, words = random.Random(0), "good bad film room dull lovely, never always\n".split(" ")
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 60))) + f" {row}" for row in range(ROWS)]
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    frame = pd.DataFrame({"text": texts, "number": [f"n{row}" for row in range(ROWS)]})
    frame.loc[::100, "text"] = None
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("predict")


def run(recipe, *words) -> None:
    recipe.main(parse_options(recipe.Arguments, [*map(str, words), "--cpu_threads", "1"], description=""))


def command(model, data, output, *words) -> list[str]:
    words = ["--dataset_name", data, "--output_file", output, "--rows_per_part", ROWS_PER_PART, *words]
    words = ["--model_name_or_path", model, "--cpu_threads", 1, *words]
    return [sys.executable, *map(str, [ROOT / "recipes" / "predict.py", *words])]


@pytest.fixture(scope="module")
def undisturbed(recipe, model, data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "labels.parquet"
    run(recipe, *command(model, data, output)[2:])
    return output


def refused(capsys, recipe, *words) -> str:
    """The line that a wrong command gets."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught, one_line_errors():
        run(recipe, *words)
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and lines[-1].startswith("error: ")
    return lines[-1]


def test_every_row_once_in_order_with_the_answer_of_the_classifier(undisturbed, model, data):
    table, texts = pd.read_parquet(undisturbed), pd.read_csv(data)["text"]
    answers = ["label", "score", "probability_bad", "probability_good"]
    assert table.columns.tolist() == ["id", "text", "number", *answers]
    pd.testing.assert_frame_equal(table[["text", "number"]], pd.read_csv(data)[["text", "number"]], check_dtype=False)
    assert table["id"].tolist() == list(range(ROWS))
    given = texts.notna()
    assert table[~given][answers].isna().all(axis=None) and (~given).sum() == 10
    expected = TextClassifier.from_pretrained(model, device="cpu").predict(texts[given].tolist())
    assert table[given]["label"].tolist() == [answer.label for answer in expected]
    assert len(set(table[given]["label"])) == 2
    probabilities = [answer.probabilities["good"] for answer in expected]
    np.testing.assert_allclose(table[given]["probability_good"], probabilities, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(table["score"], table[["probability_bad", "probability_good"]].max(axis=1))
    assert {path.name for path in undisturbed.parent.iterdir()} == {"labels.parquet"}


def kill(process: subprocess.Popen, folder: Path, parts: int) -> None:
    """Kills a process and those that it started, without a warning, once so many parts are there."""
    wait_until(lambda: process.poll() is not None or sum(1 for _ in folder.glob("part-*[0-9].json")) >= parts, 300)
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(recipe, undisturbed, model, data, tmp_path, capsys):
    output, there = tmp_path / "labels.parquet", []
    for parts in (1, 12):
        process = subprocess.Popen(command(model, data, output), stderr=subprocess.DEVNULL)
        kill(process, parts_folder(output), parts)
        assert process.returncode == -signal.SIGKILL and not output.exists()
        files = [path.with_suffix(".parquet") for path in sorted(parts_folder(output).glob("part-*[0-9].json"))]
        assert all(pq.read_metadata(file).num_rows == ROWS_PER_PART for file in files)
        there.append({file.name: file.stat().st_mtime_ns for file in files})
    assert len(there[1]) > len(there[0]) > 0 and there[1].items() >= there[0].items()  # none was written again
    (parts_folder(output) / "part-000020.parquet.host.1.tmp").write_bytes(b"half")
    (parts_folder(output) / "part-000024.parquet.host.1.tmp").write_bytes(b"half")
    run(recipe, *command(model, data, output)[2:])
    said = capsys.readouterr()
    assert "1,000 rows\n10 of them have no text, and so no label\n" in said.out
    assert output.read_bytes() == undisturbed.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]


@pytest.mark.slow
def test_two_processes_share_the_parts(undisturbed, model, data, tmp_path):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    output = tmp_path / "labels.parquet"
    words = [*launch, *command(model, data, output)[1:]]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    kill(process, parts_folder(output), 3)
    assert not output.exists()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("1,000 rows") == 1 and "process 1" not in done.stderr
    assert output.read_bytes() == undisturbed.read_bytes()


def test_each_process_labels_its_own_parts_and_all_are_needed(recipe, model, data, tmp_path, monkeypatch):
    """The two processes one after the other, so that the share of each is seen."""
    output, seen = tmp_path / "labels.jsonl", []
    monkeypatch.setattr(recipe, "merge_parts", lambda *_: None)
    for index in (0, 1):
        if index == 1:
            monkeypatch.setattr(PartialState, "is_main_process", property(lambda self: False))
        state = PartialState()
        monkeypatch.setattr(state, "num_processes", 2)
        monkeypatch.setattr(state, "process_index", index)
        monkeypatch.setattr(PartialState, "wait_for_everyone", lambda self: None)
        monkeypatch.setattr(recipe, "start_processes", lambda threads, state=state, **_: state)
        run(recipe, *command(model, data, output)[2:])
        seen.append({int(path.stem.split("-")[1]) for path in parts_folder(output).glob("part-*.parquet")})
        if index == 0:
            with pytest.raises(
                FileNotFoundError,
                match=r"12 of 25 parts are missing: part-000001, .*part-000019, \.\.\.;",
            ):
                parts = [parts_folder(output) / f"part-{number:06d}.parquet" for number in range(25)]
                merge_parts(parts, output)
    assert seen == [set(range(0, 25, 2)), set(range(25))]


def test_parts_of_another_run_are_refused(recipe, undisturbed, model, data, encoder_folder, tmp_path, capsys):
    output, words = tmp_path / "labels.parquet", command(model, data, tmp_path / "labels.parquet")[2:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "merge_parts", lambda *_: None)
        run(recipe, *words)
    other_data, other_model = tmp_path / "other.csv", save_model(encoder_folder, tmp_path / "model", overlap=5)
    other_data.write_text(data.read_text().replace("n900", "n9OO").replace("dull", "Dull", 1))
    for found, change in (
        ("data", ["--dataset_name", other_data]),
        ("data", ["--id_column", "number"]),
        ("model", ["--model_name_or_path", other_model]),
        ("abstain_below", ["--abstain_below", "0.7"]),
    ):
        line = refused(capsys, recipe, *words, *change)
        assert f"Found parts of a run with another {found} in" in line and "--overwrite_output" in line
    (parts_folder(output) / "part-000003.parquet").write_bytes(b"to be written anew")
    moved = shutil.copytree(model, tmp_path / "moved")  # the same model and data elsewhere are the same
    run(recipe, *words, "--model_name_or_path", moved, "--overwrite_output")
    assert output.read_bytes() == undisturbed.read_bytes()
    assert "Found " in (line := refused(capsys, recipe, *words)) and "expected no such file" in line
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_second_run_at_the_same_time_is_refused(recipe, model, data, tmp_path, capsys):
    words = command(model, data, tmp_path / "labels.parquet")[2:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "predict_parts", lambda *_, **__: pytest.fail("labelled"))
        folder = parts_folder(tmp_path / "labels.parquet")
        folder.mkdir()
        with FileLock(folder / ".lock"):
            assert "Found another run that is writing to" in refused(capsys, recipe, *words)
            assert "Found another run that is writing to" in refused(capsys, recipe, *words, "--overwrite_output")
        (folder / "mine.txt").touch()
        assert "without manifest.json" in refused(capsys, recipe, *words, "--overwrite_output")
        assert (folder / "mine.txt").exists()


def test_the_probabilities_of_a_run_are_those_of_its_report(recipe, model, tmp_path):
    test = load_splits(str(SAMPLE), text_column="sentence")["test"]
    test = test.cast_column("label", ClassLabel(names=["bad", "good"]))
    score_reported(TextClassifier.from_pretrained(model, device="cpu"), test, run_dir=str(tmp_path))
    reported = pd.read_parquet(tmp_path / "report" / "predictions.parquet")
    words = ["--model_name_or_path", model, "--dataset_name", SAMPLE, "--text_column", "sentence", "--split", "test"]
    run(recipe, *words, "--output_file", tmp_path / "a.parquet", "--rows_per_part", "50")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert len(table) == len(reported) == 460 and table["label"].tolist() == reported["prediction"].tolist()
    columns = ["probability_bad", "probability_good"]
    np.testing.assert_allclose(table[columns], reported[columns], rtol=0, atol=1e-5)
    run(recipe, *words, "--streaming", "true", "--output_file", tmp_path / "b.parquet", "--rows_per_part", "50")
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes()


def test_jsonl_ids_and_abstaining(recipe, model, data, undisturbed, tmp_path):
    output, limit = tmp_path / "labels.jsonl", float(pd.read_parquet(undisturbed)["score"].median())
    run(recipe, *command(model, data, output, "--id_column", "number", "--abstain_below", limit)[2:])
    rows, table = [json.loads(line) for line in output.read_text().splitlines()], pd.read_parquet(undisturbed)
    assert [row["id"] for row in rows] == [f"n{row}" for row in range(ROWS)]
    nulls = dict.fromkeys(("label", "score", "probability_bad", "probability_good"))
    assert rows[0] == {"id": "n0", "text": None, "number": "n0", **nulls}
    assert [row["score"] for row in rows if row["score"]] == table["score"].dropna().tolist()
    kept = [row["label"] is not None for row in rows]
    assert kept == (table["score"] >= limit).tolist() and 490 < sum(kept) < 500


def test_pairs_several_labels_and_numbers(recipe, encoder_folder, tmp_path, capsys):
    pairs = save_model(encoder_folder, tmp_path / "pairs", pair_truncation="none")
    rows = [{"a": "good film", "b": "bad"}, {"a": None, "b": "bad"}, {"a": "", "b": "x"}, {"a": "dull", "b": "never"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--dataset_name", tmp_path / "rows.jsonl", "--text_column", "a"]
    two = [*words, "--text_pair_column", "b"]
    run(recipe, "--model_name_or_path", pairs, *two, "--output_file", tmp_path / "pairs.jsonl")
    said = capsys.readouterr().out
    assert "4 rows\n1 of them have no text" in said and "1 of them have an empty text" in said
    answers = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    expected = TextClassifier.from_pretrained(pairs, device="cpu").predict([("good film", "bad"), ("dull", "never")])
    assert [answers[0]["score"], answers[3]["score"]] == pytest.approx([answer.score for answer in expected], abs=1e-5)
    assert [answer["label"] is None for answer in answers] == [False, True, False, False]
    many = save_model(encoder_folder, tmp_path / "many", problem_type="multi_label_classification")
    number = save_model(encoder_folder, tmp_path / "number", problem_type="regression", id2label={0: "value"})
    for name in (many, number):
        run(recipe, "--model_name_or_path", name, *words, "--output_file", f"{name}.parquet")
        classifier = TextClassifier.from_pretrained(name, device="cpu")
        expected = classifier.predict(["good film", "", "dull"])
        table = pq.read_table(f"{name}.parquet").to_pylist()
        assert table[1]["label"] is None
        found = [table[row]["label"] for row in (0, 2, 3)]
        if name == many:
            assert found == [list(answer.label) for answer in expected]
        else:
            assert found == pytest.approx([answer.label for answer in expected], abs=1e-5) and list(table[0]) == [
                *("id", "a", "b", "label"),
            ]
    line = refused(capsys, recipe, "--model_name_or_path", pairs, *words, "--output_file", tmp_path / "x.jsonl")
    assert "Found single texts for a model of pairs; expected pairs. Give --text_pair_column." in line
    line = refused(capsys, recipe, "--model_name_or_path", many, *two, "--output_file", tmp_path / "x.jsonl")
    assert "Found pairs for a model of single texts; expected single texts. Leave out --text_pair_column." in line


def test_one_text_and_lines_of_standard_input(recipe, model, encoder_folder, tmp_path, capsys, monkeypatch):
    answers = TextClassifier.from_pretrained(model, device="cpu").predict(["good film", "", "bad\tfilm"])
    lines = [f"{answer.label}\t{answer.score:.4f}" for answer in answers]
    run(recipe, "--model_name_or_path", model, "--text", "good film")
    assert capsys.readouterr().out.splitlines() == lines[:1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good film\n\nbad\tfilm\r\n")))
    run(recipe, "--model_name_or_path", model, "--text", "-")
    assert capsys.readouterr().out.splitlines() == lines
    pairs = save_model(encoder_folder, tmp_path / "pairs", pair_truncation="none")
    run(recipe, "--model_name_or_path", pairs, "--text", "good", "--text_pair", "bad film")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\tbad film\n")))
    run(recipe, "--model_name_or_path", pairs, "--text", "-")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0] == said[1]
    assert "Give --text_pair." in refused(capsys, recipe, "--model_name_or_path", pairs, "--text", "good")


def test_words_in_a_column_and_on_a_line(recipe, model, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("text\ngood <b>film</b>\nfilm\nbad\n", encoding="utf-8")
    words = ["--model_name_or_path", model, "--dataset_name", tmp_path / "mine.csv", "--words"]
    run(recipe, *words, "--output_file", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = TextClassifier.from_pretrained(model, device="cpu").predict(
        ["good <b>film</b>", "film", "bad"], words=True
    )
    for row, answer in zip(rows, answers):
        found = json.loads(row["words"])
        assert [(word["text"], word["start"]) for word in found] == [(one.text, one.start) for one in answer.words]
        assert all(set(word["contributions"]) == {row["label"]} for word in found)
    assert len(rows) == 3 and rows[0]["text"] == "good <b>film</b>"
    capsys.readouterr()
    run(recipe, "--model_name_or_path", model, "--text", "good film", "--words")
    line = capsys.readouterr().out
    assert re.fullmatch(r"\w+\t\d\.\d{4}\t\w+: (good|film) [+-]\d+\.\d\d, (good|film) [+-]\d+\.\d\d\n", line)


def test_options_that_would_do_nothing(recipe, model, capsys):
    for words in (
        ["--text", "a", "--id_column", "b"],
        ["--text", "-", "--text_pair", "b"],
        ["--text", "a", "--streaming"],
    ):
        line = refused(capsys, recipe, "--model_name_or_path", model, *words)
        assert line.startswith(f"error: Found {words[2]}, which does nothing here")


def test_a_line_of_a_pair_without_a_tab(recipe, encoder_folder, tmp_path, capsys, monkeypatch):
    pairs = save_model(encoder_folder, tmp_path / "pairs", pair_truncation="none")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\tbad\nalone\n")))
    line = refused(capsys, recipe, "--model_name_or_path", pairs, "--text", "-")
    assert "Line 2 of standard input has no tab; expected two texts" in line


def test_characters_that_are_not_ascii_whatever_the_locale(recipe, model, capsys, monkeypatch):
    words = ["--model_name_or_path", model, "--text"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\u00e9 dull\n".encode()), "latin-1"))
    run(recipe, *words, "-")
    run(recipe, *words, "\u00e9 dull")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0] == said[1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\n\xe9 dull\n"), "latin-1"))
    assert "Line 2 of standard input is not UTF-8" in refused(capsys, recipe, *words, "-")
    line = refused(capsys, recipe, *words, "\udce9 dull")  # what Python makes of Latin-1 on a command line
    assert "Text 0 holds half of a character (a lone surrogate)" in line


BAD = {
    "no request": ([], "Found --text and --dataset_name, or neither"),
    "no output": (["--dataset_name", "mine.csv"], "Found --dataset_name or --output_file alone"),
    "suffix": (["--dataset_name", "mine.csv", "--output_file", "a.xlsx"], "ends with .parquet, .jsonl, .csv"),
    "itself": (["--dataset_name", "a.jsonl", "--output_file", "./a.jsonl"], "which is read; expected a place outside"),
    "there": (["--dataset_name", "mine.csv", "--output_file", "a.jsonl"], "expected no such file"),
    "no file": (["--dataset_name", "./no.csv", "--output_file", "b.jsonl"], "No data set found at './no.csv'"),
    "column": (["--dataset_name", "mine.csv", "--output_file", "b.jsonl"], "Found the columns body in mine.csv"),
    "id": (
        ["--dataset_name", "a.jsonl", "--id_column", "n", "--output_file", "b.jsonl"],
        "expected n. Name the right",
    ),
    "split": (["--dataset_name", str(SAMPLE), "--output_file", "b.jsonl"], "Found train, validation, test in"),
    "no split": (
        ["--dataset_name", "a.jsonl", "--split", "test", "--output_file", "b.jsonl"],
        "expected one split",
    ),
    "late row": (["--dataset_name", "a.jsonl", "--output_file", "b.jsonl"], "not valid JSON in line 9000"),
    "types": (["--dataset_name", "late.jsonl", "--output_file", "b.jsonl"], "int in line 8999"),
    "option": (["--txt", "x"], "Found the unknown option --txt; expected one that --help lists, such as --text."),
    "parts": (["--text", "x", "--rows_per_part", "0"], "Found --rows_per_part 0; expected at least 1"),
    "share": (["--text", "x", "--abstain_below", "7"], "Found abstain_below=7.0; expected a probability"),
    "folder": (["--text", "x", "--model_name_or_path", "./no"], "No model found at './no'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_before_a_row_is_labelled(recipe, model, tmp_path, monkeypatch, capsys, case):
    words, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    good = ['{"text": "good"}\n'] * 8998
    Path("mine.csv").write_text("body\ngood\n")
    Path("a.jsonl").write_text("".join([*good, "{}\n", "{text\n"]))
    Path("late.jsonl").write_text("".join([*good, '{"text": 1}\n']))
    before = Path("a.jsonl").read_bytes()
    assert message in refused(capsys, recipe, "--model_name_or_path", model, *words)
    assert not Path("b.jsonl").exists() and not Path("b.jsonl.parts").exists()
    assert Path("a.jsonl").read_bytes() == before


def test_a_folder_of_classes_and_a_column_that_changes(tmp_path):
    for name in ("pos", "neg"):
        (tmp_path / "films" / name).mkdir(parents=True)
        for number in (10, 2):
            (tmp_path / "films" / name / f"{number}.txt").write_text(f"{name} {number}")
    tables = list(stream_rows(str(tmp_path / "films"), id_column="file", rows=3)())
    assert [len(table) for table in tables] == [3, 1]
    assert [row["id"] for table in tables for row in table.to_pylist()] == [
        "neg/2.txt",
        "neg/10.txt",
        "pos/2.txt",
        "pos/10.txt",
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a", "n": n}) + "\n" for n in [1] * 5000 + ["x"]))
    with pytest.raises(ValueError, match="Column n of .* mixes types .int in line 4097, str in line 5001"):
        list(stream_rows(str(tmp_path / "a.jsonl"), id_column="n")())


@pytest.fixture(scope="module")
def onnx_folder(model, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("exported") / "onnx")
    export_onnx(model, folder)
    return folder


@pytest.mark.slow
def test_what_runs_on_the_cpu_alone_does_so_beside_an_accelerator(recipe, onnx_folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    kinds = {True: "cpu", False: "cuda"}
    state = lambda cpu, **_: SimpleNamespace(device=torch.device(kinds[cpu]), is_main_process=True)  # noqa: E731
    monkeypatch.setattr("bertcls.serve.bulk.PartialState", state)
    run(recipe, "--model_name_or_path", onnx_folder, "--text", "good", "--backend", "onnx")
    assert "\t0." in capsys.readouterr().out
    assert start_processes().device.type == "cuda"


@pytest.mark.slow
def test_other_engines_label_the_same_rows(recipe, model, onnx_folder, data, tmp_path):
    few = pd.read_csv(data, keep_default_na=False).head(30)
    few.to_csv(tmp_path / "few.csv", index=False)
    engines = {
        "torch": [],
        "onnx": ["--backend", "onnx"],
        "bf16": ["--dtype", "bfloat16"],
    }
    tables, digests = {}, set()
    for name, words in engines.items():
        source = onnx_folder if name == "onnx" else model
        out = tmp_path / f"{name}.parquet"
        run(
            recipe,
            "--model_name_or_path",
            source,
            "--dataset_name",
            tmp_path / "few.csv",
            "--output_file",
            out,
            *words,
        )
        tables[name] = pd.read_parquet(out)
        options = dict(zip(("backend",) if name == "onnx" else ("dtype",), words[1:]))
        digests.add(digest_of(TextClassifier.from_pretrained(source, device="cpu", **options)))
    exported = TextClassifier.from_pretrained(onnx_folder, "onnx")
    (one,) = exported.encode(["good film, dull " * 40], windows=True)  # a text in parts is the whole text, here too
    found = exported.predict_vectors(one, torch.cat([exported.window_vectors(part) for part in one.parts(3)]))
    (whole,) = exported.predict_encoded([one])
    assert found.probabilities == pytest.approx(whole.probabilities, abs=1e-5) and len(found.windows) > 6
    assert all(table["label"].notna().sum() == 29 for table in tables.values())  # the first text is missing
    difference = (tables["onnx"]["probability_good"] - tables["torch"]["probability_good"]).abs().max()
    assert difference < 1e-5 and len(digests) == 3
