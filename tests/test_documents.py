"""The documents say nothing that is not so: their commands, options, files, headings, examples and tables."""

import argparse
import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import sys
import tomllib
import types
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from conftest import ROOT, TINY, load_recipe
from helpers import arguments_of
from transformers import AutoTokenizer

import bertcls
from bertcls import BertClsForSequenceClassification, RecipeArguments, RunArguments, TextClassifier
from bertcls.text import STEPS
from bertcls.training.launch import parse, parse_runs
from bertcls.training.options import Parser, parse_options

NAMES = (
    "README.md",
    "README.zh.md",
    "recipes/README.md",
    "recipes/NODES.md",
    "bertcls/README.md",
    "bertcls/serve/README.md",
    "bertcls/export/README.md",
    "benchmarks/README.md",
    "tests/README.md",
    ".github/CONTRIBUTING.md",
)
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/)?(?:accelerate\s+launch|python3?)\s[^`]+)`")
TRAINS = [path.stem for path in sorted((ROOT / "recipes").glob("*.py")) if "\nDEFAULTS = " in path.read_text()]
OTHERS = ("source", "curl", "ruff", "pip")  # programs that are not ours


def blocks(name: str, language: str) -> list[str]:
    return [code for found, code in CODE.findall(DOCUMENTS[name]) if found == language]


def commands(name: str) -> list[str]:
    """Every command of a document: of its bash blocks, and those that stand in a sentence."""
    lines = [line for block in blocks(name, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in INLINE.findall(CODE.sub("", DOCUMENTS[name]))]
    return [part.strip() for line in lines for part in line.split("&&")]


COMMANDS = [(name, command) for name in NAMES for command in dict.fromkeys(commands(name))]


@pytest.fixture(scope="module", autouse=True)
def threads():
    """A tiny model has nothing to share, and the programs set what the others of this process had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The environment and the module path are put back, which the programs set, too."""
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "path", [*sys.path])


class Parsed(BaseException):
    """A program has understood its command line."""


def parsed(start, words: list[str], monkeypatch) -> None:
    """Starts a program that ends when its parser has taken the words."""
    take = argparse.ArgumentParser.parse_args

    def stop(parser, *args):
        take(parser, *args)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        start()


def understand(script: str, words: list[str], folder: Path, monkeypatch) -> None:
    """A recipe or a benchmark parses its words, in this process and without doing anything."""
    path, name = ROOT / script, Path(script).stem
    if name in TRAINS and path.parent.name == "recipes":
        recipe, words = load_recipe(name), [word for word in words if word != "--resume_from_checkpoint"]
        if "--output_dir" in words:
            del words[words.index("--output_dir") :][:2]
        runs = parse_runs(
            arguments_of(recipe),
            [*words, "--output_dir", str(folder / "run")],
            defaults=recipe.DEFAULTS,
            sample=recipe.SAMPLE,
        )
        assert len(list(runs)) == (3 if "--seeds" in words else 1)
    elif name == "search":
        options, rest = load_recipe(name).read(words)
        understand(options.recipe, rest, folder, monkeypatch)
    elif name == "predict":
        parse_options(load_recipe(name).Arguments, words, description="")
    else:
        monkeypatch.syspath_prepend(str(path.parent))
        parsed(lambda: runpy.run_path(str(path), run_name="__main__"), [script, *words], monkeypatch)


def test_there_are_commands():
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("**/*.md") if is_ours(path)} == {*NAMES}
    counts = Counter(name for name, _ in COMMANDS)
    assert counts["README.md"] >= 8 and counts["recipes/README.md"] >= 40 and counts["benchmarks/README.md"] >= 25
    assert all(counts[name] for name in NAMES if name != "bertcls/README.md")
    assert len(TRAINS) >= 8


def is_ours(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return not {".venv", "runs", "sample", "build", ".pytest_cache"} & {*parts} and "site-packages" not in parts


@pytest.mark.parametrize("name, command", COMMANDS)
def test_every_command_is_understood(name, command, tmp_path, monkeypatch):
    words = shlex.split(command.replace("$DATA", "data").replace("$MODEL", "model"), comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "accelerate":
        assert rest[0] == "launch"
        launch = launch_command_parser().parse_args(rest[1:])
        assert launch.config_file is None or (ROOT / launch.config_file).is_file()
        program, rest = "python", [launch.training_script, *launch.training_script_args]
    if program in ("python", "python3") and rest[0] == "-m" and rest[1].startswith("bertcls."):
        module = importlib.import_module(rest[1])
        parsed(lambda: module.main(rest[2:]), rest[1:], monkeypatch)
    elif program in ("python", "python3") and rest[0] == "-m":
        assert rest[1] in ("venv", "pytest")
    elif program in ("python", "python3") and rest[0] == "-c":
        assert imports_resolve(rest[1])
    elif program in ("python", "python3"):
        assert re.fullmatch(r"(recipes|benchmarks)/\w+\.py", rest[0])
        understand(rest[0], rest[1:], tmp_path, monkeypatch)
    else:
        assert program in OTHERS
    if program == "curl":
        check_request(rest)


def check_request(words: list[str]) -> None:
    """A request of the documents has a path that the service knows, and its body the fields of that path."""
    path = "/" + words[-1].split("/", 3)[3]
    body = json.loads(words[words.index("-d") + 1])
    required = {"/query": {"sentences"}, "/predict": {"texts"}}[path]
    assert required <= body.keys() <= required | {"windows", "abstain_below"}


def known_options() -> set[str]:
    classes = [RunArguments, load_recipe("predict").Arguments, *(arguments_of(load_recipe(name)) for name in TRAINS)]
    found = {f"--{field.name}" for one in classes for field in fields(one)}
    for folder in ("recipes", "benchmarks", "bertcls"):
        for path in (ROOT / folder).glob("*.py"):
            found |= {*re.findall(r'add_argument\("(--\w+)"', path.read_text())}
    for parser in (launch_command_parser(), Parser((RecipeArguments, RunArguments))):
        for action in parser._actions:
            found |= {*action.option_strings}
    return found


def test_every_option_exists():
    known, named = known_options(), 0
    for name, text in DOCUMENTS.items():
        ours = re.sub(r"<!--.*?-->|```sh\n.*?```", "", text, flags=re.DOTALL)  # batch scripts have those of Slurm
        found = {*re.findall(r"(?<![\w-])--[A-Za-z]\w*", ours)}
        assert found <= known, (name, found - known)
        named += len(found)
    assert named >= 120


def test_every_option_of_the_recipes_is_explained_once():
    text = DOCUMENTS["recipes/README.md"].split("\n## Options\n")[1].split("\n## ")[0]
    first = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `--")]
    counts = Counter(word for cell in first for word in re.findall(r"--\w+", cell))
    options = [f"--{field.name}" for field in fields(RecipeArguments) if field.init]
    assert len(options) >= 45 and {option: counts[option] for option in options if counts[option] != 1} == {}


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    lines = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_heading_exists(name):
    text = CODE.sub("", DOCUMENTS[name])
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for link in links:
        target, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.exists(), link
        assert not anchor or anchor in headings(path.read_text(encoding="utf-8")), link
    paths = re.findall(r"(?<![\w./])(?:recipes|bertcls|tests|benchmarks)/[\w./-]+\.\w+", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert links and (paths or not name.startswith("README"))


def rows_below(text: str, head: str) -> set[str]:
    """What stands in backticks in the first cells of the table below a line that begins with `head`."""
    table = text[text.index(f"\n{head}") + 1 :].split("\n\n")[0]
    return {found for row in table.splitlines()[2:] for found in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_program_and_module_has_its_line():
    recipes = {path.name for path in (ROOT / "recipes").glob("*.py")}
    assert len(recipes) >= 12 and rows_below(DOCUMENTS["recipes/README.md"], "| program |") == recipes
    for folder in ("", "data/", "training/", "report/", "export/", "serve/"):
        modules = {path.name for path in (ROOT / "bertcls" / folder).glob("*.py")} - {"__init__.py"}
        head = f"| `bertcls/{folder}`" if folder else "| core: `bertcls/`"
        assert len(modules) >= 2 and rows_below(DOCUMENTS["bertcls/README.md"], head) == modules
    names = re.findall(r"`(\w+)`", DOCUMENTS["bertcls/README.md"].split("| step of a recipe |")[1].split("\n\n")[0])
    assert sorted(names) == sorted(bertcls.__all__)


def test_every_benchmark_is_named_and_every_table_names_its_command():
    text = DOCUMENTS["benchmarks/README.md"]
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"machine.py", "namespaces.py"}
    run = {
        word for command in commands("benchmarks/README.md") for word in re.findall(r"benchmarks/(\w+\.py)", command)
    }
    assert len(scripts) >= 14 and run == scripts
    tables = [*re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) >= 16
    for before, table in zip([None, *tables], tables):
        start = max(text.rindex("\n## ", 0, table.start()), before.end() if before else 0)
        said = text[start : table.start()]
        assert re.search(r"(python|launch)\s(benchmarks|recipes)/\w+\.py", said), table[0].splitlines()[0]


def test_what_broke_once_names_its_tests():
    rows = [row for row in DOCUMENTS["tests/README.md"].splitlines() if re.match(r"\| A?\d+ \|", row)]
    assert [row.split("|")[1].strip() for row in rows] == [*map(str, range(1, 41)), *(f"A{n}" for n in range(18))]
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = {row: re.findall(r"`(test_\w+)`", row) for row in rows}
    assert {row: names for row, names in named.items() if not {*names} <= there or not (names or "](" in row)} == {}


def imports_resolve(code: str) -> bool:
    """Whether code compiles, and every name that it imports is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if importlib.util.find_spec(alias.name) is None:
                    return False
    return True


PYTHON = [(name, code) for name in NAMES for code in blocks(name, "python")]
WITH_STEPS = [(name, code) for name, code in PYTHON if "steps=" in code]


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder_folder) -> Path:
    """A folder in which the examples run: with recipes, and a model in runs/mine."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    torch.manual_seed(0)
    labels = {0: "negative", 1: "positive"}
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, id2label=labels, max_length=64)
    model.save_pretrained(folder / "runs" / "mine")
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder / "runs" / "mine")
    return folder


@pytest.mark.parametrize("name, code", [block for block in PYTHON if block not in WITH_STEPS])
def test_python_blocks_run(name, code, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_there_are_python_blocks():
    assert len(PYTHON) >= 7 and len(WITH_STEPS) == 1
    others = [code for name in NAMES for code in blocks(name, "py")]  # run by test_backends.py and test_ray.py
    assert len(others) == 2 and all(imports_resolve(code) for code in others if "import ray" not in code)


def apply(source: str, patch: str) -> str:
    """A file after the hunks of a diff, each of which finds its lines exactly once."""
    for hunk in re.split(r"^@@.*\n", patch, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] != sign) for sign in "+-")
        assert source.count(f"\n{old}") == 1, old
        source = source.replace(f"\n{old}", f"\n{new}")
    return source


@pytest.fixture(scope="module")
def extended(place):
    """The template with all the changes of the documents, run on tickets of two columns with a signature."""
    source = (ROOT / "recipes" / "csv_finetune.py").read_text()
    patches = blocks("recipes/README.md", "diff")
    assert len(patches) == 4
    for patch in patches:
        source = apply(source, patch)
    recipe = types.ModuleType("extended")
    recipe.__file__ = str(ROOT / "recipes" / "csv_finetune.py")
    exec(compile(source, recipe.__file__, "exec"), recipe.__dict__)
    losses, own_loss = [], recipe.focal_loss
    recipe.focal_loss = lambda *args, **kwargs: losses.append(own_loss(*args, **kwargs)) or losses[-1]
    topics = ("late parcel", "broken screen")
    rows = [
        {"subject": topics[n % 2], "body": f"order {n} was {topics[n % 2]}\n-- \nAnn, sales", "topic": "ab"[n % 2]}
        for n in range(600)
    ]
    (place / "tickets").mkdir()
    pd.DataFrame(rows).to_json(place / "tickets" / "train.jsonl", orient="records", lines=True)
    words = ["--dataset_name", str(place / "tickets"), "--label_column", "topic", "--cleaning", "drop_signature"]
    words += ["--model_name_or_path", str(TINY), "--from_scratch", "--pooling", "mean", "--max_length", "32"]
    words += ["--num_train_epochs", "2", "--metric_for_best_model", "mcc", "--figures", "false"]
    words += ["--output_dir", str(place / "runs" / "signed"), "--disable_tqdm", "true", "--cpu_threads", "1"]
    yield recipe.main(*parse(RecipeArguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)), losses
    del STEPS["drop_signature"]


@pytest.mark.slow
def test_a_metric_a_loss_a_text_and_a_step_of_ones_own(extended, place):
    results, losses = extended
    assert -1 <= results["eval_mcc"] <= 1 and -1 <= results["test_mcc"] <= 1
    assert 0 < losses[0].item() < 0.5  # the model's own loss of two classes begins at 0.69
    table = pd.read_parquet(place / "runs" / "signed" / "report" / "predictions.parquet")
    assert table["text"].str.fullmatch(r"(.+)\norder \d+ was \1\n-- \nAnn, sales").all()
    assert json.loads((place / "runs" / "signed" / "config.json").read_text())["cleaning"] == ["drop_signature"]


def test_a_step_of_ones_own_is_applied_when_the_model_is_used(extended, place):
    classifier = TextClassifier.from_pretrained(str(place / "runs" / "signed"))
    signed, plain = classifier.predict(["late parcel\n-- \nbroken screen", "late parcel"])
    assert signed == plain


@pytest.mark.parametrize("name, code", WITH_STEPS)
def test_whoever_loads_a_model_gives_its_steps(name, code, extended, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.delitem(STEPS, "drop_signature")
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip() in ("a", "b")


def test_the_readme_is_short_and_its_two_commands_are_marked():
    readme = DOCUMENTS["README.md"]
    assert len(readme.splitlines()) <= 150
    assert len(re.findall(r"<!-- (?:sample|test) -->\n```bash\npython3 .*\n```", readme)) == 2  # .ci/run runs these
    for name in ("report", "page"):
        picture = (ROOT / ".github" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) <= 150_000 and f".github/{name}.png" in readme


def test_the_chinese_page_has_the_commands_of_the_readme():
    for language in ("bash", "python"):
        assert blocks("README.zh.md", language) == blocks("README.md", language) != []


def test_the_workflow_runs_what_must_pass_with_every_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups())
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(low, high)]
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(used) == 2 and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert job["steps"][-1] == {"run": ".ci/run"} and os.access(ROOT / ".ci" / "run", os.X_OK)


def test_a_picture_has_few_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pictures = importlib.import_module("pictures")
    (tmp_path / "page.html").write_text("<h1>0.9</h1>" + "<p>A text of some words.</p>" * 60)
    with pictures.Chromium(tmp_path / "profile") as browser:
        browser.go((tmp_path / "page.html").as_uri(), width=pictures.WIDTH, height=pictures.HEIGHT)
        pictures.save(browser, tmp_path / "page.png")
    assert 1000 < (tmp_path / "page.png").stat().st_size <= pictures.LARGEST
