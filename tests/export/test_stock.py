"""The copy for the stock classes, loaded where bertcls is not importable."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from bertcls import BertClsConfig, BertClsForSequenceClassification, TextClassifier, clean
from bertcls.export.stock import export_stock
from bertcls.layout import STOCK_FILES

SHORT = ["A film that ends well.", "", "Bad &amp; <b>dull</b>.", "The plot is thin, but the cast saves it."]
LONG = "The plot is thin at first. " * 8 + "The cast saves it and it ends well."
LABELS = ("bad", "good", "mixed")
PAIRS = [("It is good.", "Good."), ("", "Bad."), ("The cast saves it.", "The plot is thin.")]

LOAD = """
import json, sys
sys.modules["bertcls"] = None  # not importable
from transformers import pipeline
result = []
for folder, texts in json.load(sys.stdin):
    classify = pipeline("text-classification", model=folder, truncation=True, device="cpu")
    texts = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
    answers = [{row["label"]: row["score"] for row in answer} for answer in classify(texts, top_k=None)]
    result.append([answers, classify.tokenizer.model_max_length, type(classify.model).__name__])
print(json.dumps(result))
"""


def build_run(folder: Path, encoder: str, **settings) -> Path:
    """A run's folder with a model that tells texts apart."""
    config = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification", **settings}
    torch.manual_seed(1)
    model = BertClsForSequenceClassification.from_encoder(encoder, **{"max_length": 32, "overlap": 6, **config})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)  # random weights of a new BERT hardly look at the text
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


@pytest.fixture
def build(encoder_folder, tmp_path):
    return lambda **settings: build_run(tmp_path / "run", encoder_folder, **settings)


def export(run: Path, texts=SHORT) -> dict:
    return export_stock(str(run), str(run / "stock"), texts)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, encoder_folder) -> dict[str, tuple]:
    """Of each case the run, what `export_stock` returned, and what the copy says where bertcls is not importable."""
    runs, results, asked = {}, {}, []
    for number, (case, (settings, texts, _)) in enumerate(CARRIED.items()):
        runs[case] = build_run(tmp_path_factory.mktemp("runs") / f"run-{number}", encoder_folder, **settings)
        results[case] = export(runs[case], texts)
        parts = [(text,) if isinstance(text, str) else text for text in [*texts, *BEYOND.get(case, [])]]
        cleaned = [[clean(part, settings.get("cleaning")) for part in text] for text in parts]
        asked.append([str(runs[case] / "stock"), [text if len(text) > 1 else text[0] for text in cleaned]])
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return {case: (runs[case], results[case], answer) for case, answer in zip(CARRIED, answers)}


CARRIED = {  # settings: texts that the copy reads as the model does, and what it does not carry
    "temperature, cleaning, windows": (
        dict(temperature=1.7, cleaning=["strip_tags", "unescape_entities"]),
        SHORT,
        ["cleaning: strip_tags, unescape_entities;", "windows: texts longer than 32 tokens"],
    ),
    "multi-label": (
        dict(problem_type="multi_label_classification", thresholds=[0.3, 0.5, 0.61]),
        SHORT,
        ["windows:", "thresholds: a label is given from its own probability on (bad 0.3, good 0.5, mixed 0.61)"],
    ),
    "head": (dict(truncation="head", temperature=0.6), [*SHORT, LONG], []),
    "tail": (dict(truncation="tail"), [*SHORT, LONG], []),
    "head and tail": (dict(truncation="head_tail"), SHORT, ["truncation: texts longer than 32 tokens"]),
    "pairs": (dict(pair_truncation="longest_first"), [*PAIRS, ("Thin.", LONG)], []),
    "pairs in windows": (dict(pair_truncation="none"), PAIRS, ["windows: pairs longer than 32 tokens"]),
    "pairs, second cut": (dict(pair_truncation="only_second"), PAIRS, ["truncation: pairs longer than 32 tokens"]),
    "mean of probabilities": (dict(window_pooling="mean_probs", temperature=2.5), SHORT, ["windows:"]),
}


BEYOND = {  # and texts that it reads otherwise
    "temperature, cleaning, windows": [LONG],
    "head and tail": [LONG],
    "pairs in windows": [("Thin.", LONG)],
    "pairs, second cut": [(SHORT[3] * 2, "It is good. " * 4)],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CARRIED)
def test_the_copy_answers_alike_without_bertcls(case, exported):
    (_, texts, missing), (run, result, (answers, max_length, kind)) = CARRIED[case], exported[case]
    assert result["exported"] is True and len(result["not_carried"]) == len(missing)
    for line, beginning in zip(result["not_carried"], missing):
        assert line.startswith(beginning)
    assert {path.name for path in (run / "stock").iterdir()} == set(STOCK_FILES)
    assert len({path.stat().st_mode for path in (run / "stock").iterdir()}) == 1  # a server's user may read them all
    model = TextClassifier.from_pretrained(str(run), device="cpu")
    assert max_length == 32 and kind == "BertForSequenceClassification"
    assert all(set(answer) == set(LABELS) for answer in answers)
    found = np.array([[answer[name] for name in LABELS] for answer in answers])
    expected = model.probabilities(texts)
    assert np.ptp(expected, axis=0).max() > 0.05  # the texts are told apart
    np.testing.assert_allclose(found[: len(texts)], expected, rtol=0, atol=1e-5)
    for answer, text in zip(found[len(texts) :], BEYOND.get(case, [])):
        assert np.abs(answer - model.probabilities([text])[0]).max() > 1e-3


IMPOSSIBLE = {
    "Its pooling is 'mean', and BertForSequenceClassification reads the pooler of BERT.": dict(pooling="mean"),
    "Its head has a hidden layer, and that of BertForSequenceClassification has none.": dict(classifier_hidden_size=8),
    "It gives numbers, and the export is for labels.": dict(problem_type="regression", id2label={0: "value"}),
    "Its windows vote, which changes the probabilities of one window, too.": dict(window_pooling="vote"),
}


@pytest.mark.parametrize("reason", IMPOSSIBLE)
def test_what_the_stock_class_cannot_hold_is_said_and_leaves_no_folder(reason, build):
    run = build()
    assert export(run)["exported"] and (run / "stock").is_dir()
    run = build(**IMPOSSIBLE[reason])
    assert export(run) == {"exported": False, "reason": reason}
    assert not (run / "stock").exists()  # nor that of the earlier model


def test_another_encoder_than_bert_is_not_exported(tmp_path, tokenizer):
    encoder = AutoConfig.for_model("roberta", vocab_size=1600, hidden_size=32, num_hidden_layers=1)
    encoder.num_attention_heads, encoder.intermediate_size, encoder.max_position_embeddings = 2, 32, 66
    BertClsForSequenceClassification(BertClsConfig(encoder=encoder, pooling="pooler")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    result = export(tmp_path)
    assert result["reason"].startswith("Its encoder is of type 'roberta'") and not (tmp_path / "stock").exists()


def test_a_copy_that_answers_otherwise_is_refused_and_removed(build):
    run = build(problem_type="multi_label_classification", window_pooling="mean_probs", temperature=3.0)
    model = BertClsForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        model.classifier.bias += 40.0  # beyond what a probability in fp32 can say, so the temperature acts otherwise
    model.save_pretrained(run)
    with pytest.raises(ValueError, match="stock export of .* differs from the model by 0.0.* in a probability"):
        export(run)
    assert not (run / "stock").exists() and (run / "model.safetensors").is_file()


def test_files_of_the_user_stay(build):
    run = build(pooling="cls")
    (run / "stock").mkdir()
    (run / "stock" / "notes.txt").write_text("mine")
    export(run)
    assert [path.name for path in (run / "stock").iterdir()] == ["notes.txt"]


def test_where_all_texts_are_long_their_beginnings_are_compared(build):
    assert export(build(), [LONG, LONG[30:]])["exported"]
    with pytest.raises(ValueError, match="Found 0 texts, none of one window of 32 tokens"):
        export(build(), [])


def test_no_file_holds_a_local_path_or_the_last_call_of_the_tokenizer(build, encoder_folder):
    run = build()
    model = BertClsForSequenceClassification.from_pretrained(run)
    model.config.encoder._name_or_path = encoder_folder
    model.save_pretrained(run)
    assert encoder_folder in (run / "config.json").read_text()  # as some version may save it
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer(LONG, truncation=True, max_length=16, stride=4)
    tokenizer.save_pretrained(run)
    assert json.loads((run / "tokenizer.json").read_text())["truncation"]["stride"] == 4
    export(run)
    files = list((run / "stock").iterdir())
    assert len(files) == 4
    for path in files:
        assert encoder_folder.encode() not in path.read_bytes() and str(run.parent).encode() not in path.read_bytes()
    assert json.loads((run / "stock" / "tokenizer.json").read_text())["truncation"] is None
    settings = json.loads((run / "stock" / "tokenizer_config.json").read_text())
    assert not {"stride", "max_length", "is_local", "local_files_only"} & set(settings)


def test_an_export_can_be_repeated(build, tmp_path):
    run = build(temperature=1.3)
    export(run)
    first = {path.name: path.read_bytes() for path in (run / "stock").iterdir()}
    shutil.copytree(run / "stock", tmp_path / "kept")
    export(run)
    assert {path.name: path.read_bytes() for path in (run / "stock").iterdir()} == first
