"""The README says nothing that is not so."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, load_recipe
from helpers import arguments_of

from bertcls.training.launch import parse_runs

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "recipes/" in line]


def test_there_are_commands():
    assert len(COMMANDS) >= 5
    assert len(re.findall(r"<!-- (?:sample|test) -->\n```bash\npython3 .*\n```", README)) == 2  # .ci/run runs these


@pytest.mark.parametrize("command", COMMANDS)
def test_every_recipe_command_is_understood(command, tmp_path):
    words = shlex.split(command.split("&&")[-1].replace("$DATA", "data").replace("$MODEL", "model"))
    at = next(i for i, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word))
    recipe = load_recipe(words[at].removeprefix("recipes/").removesuffix(".py"))
    rest = [word for word in words[at + 1 :] if word != "--resume_from_checkpoint"]
    if "--output_dir" in rest:
        rest[rest.index("--output_dir") + 1] = str(tmp_path / "run")
    if not hasattr(recipe, "DEFAULTS"):  # a program that trains nothing
        script = ROOT / words[at]
        help_text = subprocess.run(
            [sys.executable, script, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [word for word in rest if word.startswith("--") and word not in help_text] == []
        return
    runs = parse_runs(
        arguments_of(recipe),
        [*rest, *([] if "--output_dir" in rest else ["--output_dir", str(tmp_path / "run")])],
        defaults=recipe.DEFAULTS,
        sample=recipe.SAMPLE,
    )
    assert len(list(runs)) == (3 if "--seeds" in rest else 1)


def test_files_that_are_named_exist():
    named = set(re.findall(r"\b(?:recipes|bertcls|tests|benchmarks)/[\w./-]+\.\w+", README))
    assert len(named) >= 1
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_benchmark_is_named_and_its_options_are():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"machine.py"}
    assert len(scripts) >= 10 and [name for name in scripts if name not in text] == []
    commands = re.findall(r"^python benchmarks/(\w+\.py) ([^#\n]*)", text, re.MULTILINE)
    assert len(commands) >= 5
    for script, words in commands:
        source = (ROOT / "benchmarks" / script).read_text()
        assert [word for word in words.split() if word.startswith("--") and f'"{word}"' not in source] == []


def test_python_blocks_run(tmp_path, monkeypatch, encoder_folder):
    import torch
    from transformers import AutoTokenizer

    from bertcls import BertClsForSequenceClassification

    torch.manual_seed(0)
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, id2label={0: "negative", 1: "positive"})
    model.save_pretrained(tmp_path / "runs" / "mine")
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 1
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
