"""Attacks and accidents that once went through, each as the kind that it stands for."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SAMPLE, TINY, load_recipe
from filelock import FileLock
from helpers import save_model

from bertcls import BertClsForSequenceClassification, RecipeArguments, TextClassifier, clean, load_tokenizer
from bertcls.training.launch import parse
from bertcls.training.mlm import load_masked_lm
from bertcls.training.options import parse_options


def run(*words, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": options.pop("modules", "")}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, **options)


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory) -> str:
    return save_model(encoder_folder, tmp_path_factory.mktemp("model"))


def test_every_load_of_an_auto_class_refuses_foreign_code():
    """A call that does not say so would ask on standard input, which may be the data."""
    found = 0
    for path in sorted((ROOT / "bertcls").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = getattr(node.func.value, "id", "")
            loads = node.func.attr in ("from_pretrained", "from_config") and owner.startswith("Auto")
            if loads:
                said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert said.get("trust_remote_code", "missing") is False, f"{path}:{node.lineno}"
                found += 1
    assert found >= 12


def poison(model: str, folder: Path, how: str) -> Path:
    """A copy of a model that names code of its own, which leaves a file behind where it runs."""
    shutil.copytree(model, folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass T: pass\n")
    name = "tokenizer_config.json" if how == "tokenizer" else "config.json"
    content = json.loads((folder / name).read_text())
    if how == "tokenizer":
        content |= {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "Strange"}
    elif how == "encoder":
        content["encoder"]["auto_map"] = {"AutoModel": "evil.T", "AutoConfig": "evil.T"}
    else:
        content |= {"auto_map": {"AutoConfig": "evil.T", "AutoModelForSequenceClassification": "evil.T"}}
        content.pop("model_type")
        content |= {} if how == "none" else {"model_type": "strange"}
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("how", ["tokenizer", "encoder", "none", "foreign"])
def test_a_models_own_code_never_runs(model, tmp_path, monkeypatch, how):
    """Whatever standard input holds, which transformers would ask."""
    folder = str(poison(model, tmp_path / "model", how))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    loads = [
        TextClassifier.from_pretrained,
        load_tokenizer,
        lambda name: BertClsForSequenceClassification.from_encoder(name, num_labels=2),
        load_masked_lm,
    ]
    for load in loads:
        try:
            load(folder)
        except (OSError, ValueError):
            pass
        assert not Path(folder, "ran").exists()
    if how != "tokenizer":
        return
    recipe = ROOT / "recipes" / "predict.py"  # whose data it is
    done = run(recipe, "--model_name_or_path", folder, "--text", "-", input="y\n1\n", modules=str(tmp_path / "cache"))
    assert not Path(folder, "ran").exists()
    assert done.returncode == 0 or done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("text", ["&#" + "1" * 4301 + ";", "&amp;#" + "9" * 100_000, "&#x" + "f" * 100_000 + ";"])
def test_entities_of_any_length_are_read(text):
    assert clean(f"a &amp; {text} b", ["unescape_entities"]).startswith("a & ")
    assert clean("&#" + "1" * 4301 + ";", ["unescape_entities"]) == "&#" + "1" * 4301 + ";"


def test_what_a_cleaning_step_raises_names_the_row(model, monkeypatch):
    def picky(text: str) -> str:
        return str(1 / len(text)) and text

    monkeypatch.setitem(sys.modules["bertcls.text"].STEPS, "picky", picky)
    classifier = TextClassifier.from_pretrained(model, device="cpu")
    classifier.model.config.cleaning = ["picky"]
    with pytest.raises(ValueError, match="Text 2: The cleaning step picky failed .ZeroDivisionError: .*Correct the"):
        classifier.predict(["a", "b", ""])


@pytest.mark.parametrize("how", ["no tokenizer", "another tokenizer"])
def test_a_tokenizer_of_another_vocabulary_is_refused(model, tmp_path, how):
    folder = shutil.copytree(model, tmp_path / "model")
    if how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        content = json.loads((folder / "tokenizer.json").read_text())
        size = len(content["model"]["vocab"])
        content["added_tokens"].append(content["added_tokens"][0] | {"id": size, "content": "[NEW]", "special": False})
        (folder / "tokenizer.json").write_text(json.dumps(content))
    for load in (TextClassifier.from_pretrained, load_tokenizer):
        with pytest.raises(ValueError, match=r"knows [\d,]+ tokens and the encoder has embeddings for [\d,]+"):
            load(str(folder))


def test_predict_does_not_remove_its_data(model, tmp_path):
    """Nor anything else in a folder that it reads, by whatever way the output leads there."""
    folder = tmp_path / "fold"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "good"}\n' * 3)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file.jsonl").symlink_to(folder / "train.jsonl")
    recipe, before = load_recipe("predict"), (folder / "train.jsonl").read_bytes()
    for source, output in (
        (folder, folder / "train.jsonl"),
        (folder, tmp_path / "link" / "train.jsonl"),
        (tmp_path / "link", folder / "new.jsonl"),
        (folder / "train.jsonl", tmp_path / "file.jsonl"),
    ):
        words = ["--model_name_or_path", model, "--dataset_name", source, "--output_file", output]
        words = [*map(str, words), "--overwrite_output"]
        with pytest.raises(ValueError, match="which is read; expected a place outside"):
            recipe.main(parse_options(recipe.Arguments, words, description=""))
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]
    assert (folder / "train.jsonl").read_bytes() == before


def test_training_does_not_remove_what_it_reads(model, tmp_path):
    data, run_dir = shutil.copytree(SAMPLE, tmp_path / "data"), shutil.copytree(model, tmp_path / "run")
    (run_dir / "report").mkdir()
    shutil.copy(next((SAMPLE / "data").glob("train*")), run_dir / "report" / "mine.jsonl")
    for words in (
        ["--dataset_name", data, "--output_dir", data],
        ["--dataset_name", data, "--output_dir", data / "runs"],
        ["--dataset_name", data, "--output_dir", run_dir, "--model_name_or_path", run_dir, "--overwrite_output"],
        ["--train_file", run_dir / "report" / "mine.jsonl", "--output_dir", run_dir, "--overwrite_output"],
    ):
        with pytest.raises(ValueError, match="which is read"):
            parse(RecipeArguments, [*map(str, words)], defaults={"model_name_or_path": str(TINY)})
    assert not (data / "checkpoints").exists() and (run_dir / "config.json").exists()


@pytest.mark.slow
def test_two_runs_do_not_share_an_output_folder(tmp_path):
    folder = tmp_path / "run"
    words = ["--output_dir", str(folder), "--dataset_name", str(SAMPLE)]
    args, _ = parse(RecipeArguments, words, defaults={})
    code = "import sys\nfrom bertcls import RecipeArguments\nfrom bertcls.process import one_line_errors\n"
    code += "from bertcls.training.launch import parse\n"
    code += "with one_line_errors(): parse(RecipeArguments, sys.argv[1:], defaults={})"
    done = run("-c", code, *words, "--overwrite_output")
    assert done.returncode == 2 and "Found another run that is writing to" in done.stderr, done.stderr
    del args
    assert run("-c", code, *words).returncode == 0  # a lock dies with its run
    with FileLock(folder / ".lock"), pytest.raises(ValueError, match="Found another run"):
        parse(RecipeArguments, [*words, "--overwrite_output"], defaults={})
