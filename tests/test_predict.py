"""Labelling any number of rows: the recipe as people run it, killed and started again, on one process and on two."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from conftest import ROOT, SAMPLE, load_recipe
from transformers import AutoTokenizer

from bertcls import BertClsForSequenceClassification, TextClassifier, load_splits, one_line_errors, stream_rows
from bertcls.arguments import parse_options
from bertcls.prediction import parts_folder

ROWS, ROWS_PER_PART = 2500, 100


def save(encoder_folder, folder, **options) -> str:
    torch.manual_seed(1)
    options = {"id2label": {0: "bad", 1: "good"}, "max_length": 32, "overlap": 6, **options}
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, **options)
    torch.nn.init.normal_(model.classifier.weight, std=5.0)  # so that answers differ visibly
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    pair = "pair_truncation" in options
    texts = [("good film", text) if pair else text for text in ("bad", "good film", "dull, never bad " * 9)]
    with torch.no_grad():  # and go both ways
        model.classifier.bias -= torch.tensor(TextClassifier(model, tokenizer, device="cpu").logits(texts).mean(0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> str:
    return save(encoder_folder, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A csv file with texts of 1 to 60 words, 25 of them missing."""
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
    assert table.columns.tolist() == ["id", "label", "score", "probability_bad", "probability_good"]
    assert table["id"].tolist() == list(range(ROWS))
    given = texts.notna()
    assert table[~given].drop(columns="id").isna().all(axis=None) and (~given).sum() == 25
    expected = TextClassifier.from_pretrained(model, device="cpu").predict(texts[given].tolist())
    assert table[given]["label"].tolist() == [answer.label for answer in expected]
    assert len(set(table[given]["label"])) == 2
    probabilities = [answer.probabilities["good"] for answer in expected]
    np.testing.assert_allclose(table[given]["probability_good"], probabilities, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(table["score"], table[["probability_bad", "probability_good"]].max(axis=1))
    assert {path.name for path in undisturbed.parent.iterdir()} == {"labels.parquet"}


def killed_at(process: subprocess.Popen, folder: Path, parts: int) -> None:
    """Kills a process and its children without a warning once so many parts are there."""
    while process.poll() is None and sum(1 for _ in folder.glob("part-*[0-9].parquet")) < parts:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(undisturbed, model, data, tmp_path):
    output, there = tmp_path / "labels.parquet", []
    for parts in (1, 12):
        process = subprocess.Popen(command(model, data, output), stderr=subprocess.DEVNULL, start_new_session=True)
        killed_at(process, parts_folder(output), parts)
        assert process.returncode == -signal.SIGKILL and not output.exists()
        files = sorted(parts_folder(output).glob("part-*.parquet"))
        assert all(pq.read_metadata(file).num_rows == ROWS_PER_PART for file in files)
        there.append({file.name: file.stat().st_mtime_ns for file in files})
    assert len(there[1]) > len(there[0]) > 0 and there[1].items() >= there[0].items()  # none was written again
    (parts_folder(output) / "part-000020.parquet.host.1.tmp").write_bytes(b"half")
    (parts_folder(output) / "part-000024.parquet.host.1.tmp").write_bytes(b"half")
    done = subprocess.run(command(model, data, output), capture_output=True, text=True)
    assert done.returncode == 0 and "2,500 rows\n25 of them have no text" in done.stdout
    assert output.read_bytes() == undisturbed.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]


def test_two_processes_share_the_parts(undisturbed, model, data, tmp_path):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    output = tmp_path / "labels.parquet"
    words = [*launch, *command(model, data, output)[1:]]
    options = {"env": environment, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, start_new_session=True, **options)
    threading.Thread(target=process.communicate).start()
    killed_at(process, parts_folder(output), 3)
    assert not output.exists()
    done = subprocess.run(words, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2,500 rows") == 1
    assert output.read_bytes() == undisturbed.read_bytes()
