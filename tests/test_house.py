"""The house holds: arrows run one way, no circle, nothing private is reached for, and files and recipes stay small."""

import ast
import difflib
import re
from pathlib import Path

from conftest import ROOT

import bertcls

PACKAGE = ROOT / "bertcls"
FLOORS = {  # which may be imported from which
    "training": {"training", "report", "export", "core", "data", "ground"},
    "report": {"report", "export", "core", "data", "ground"},
    "export": {"export", "core", "data", "ground"},
    "serve": {"serve", "report", "export", "core", "data", "ground"},
    "core": {"core", "data", "ground"},
    "data": {"data", "ground"},
    "ground": set(),
}
GROUND = {"layout", "process", "together"}
OPEN_TO_DATA = {"text", "modeling"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
DATA_RECIPES = ("sst2", "imdb", "mrpc", "chnsenticorp", "newsgroups")


def floor_of(module: str) -> str:
    parts = module.split(".")[1:]
    return parts[0] if len(parts) > 1 else "ground" if parts[0] in GROUND else "core"


def imports_of(module: str, source: str) -> set[str]:
    """The modules of ours that a module imports, relative imports and those within functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found & {*MODULES}


def wrong_arrows(module: str, source: str) -> list[str]:
    floor = floor_of(module)
    allowed = FLOORS[floor]
    return [
        f"{module} -> {other}"
        for other in sorted(imports_of(module, source))
        if floor_of(other) not in allowed and not (floor == "data" and other.split(".")[1] in OPEN_TO_DATA)
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; none where there is no circle."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if found := walk(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := walk(module, []))), [])


def private_of(source: str) -> set[str]:
    """Private names that a module defines: functions, classes, methods, constants and attributes of its objects."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                found |= {getattr(part, "id", getattr(part, "attr", "")) for part in parts}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def reached_for(module: str, source: str, private: dict[str, set[str]]) -> list[str]:
    """Private names and attributes of other modules of ours that a module uses."""
    own = private_of(source)
    others = set().union(*(names for name, names in private.items() if name != module)) - own
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("bertcls")):
            found += [alias.name for alias in node.names if alias.name.startswith("_")]
        elif isinstance(node, ast.Attribute) and node.attr in others:
            found.append(node.attr)
    return [name for name in found if not name.startswith("__")]


def test_arrows_run_one_way_and_in_no_circle():
    assert len(MODULES) >= 35
    sources = {module: path.read_text() for module, path in MODULES.items()}
    assert [arrow for module, source in sources.items() for arrow in wrong_arrows(module, source)] == []
    assert circle({module: imports_of(module, source) for module, source in sources.items()}) == []


def test_a_wrong_arrow_and_a_circle_are_seen():
    assert wrong_arrows("bertcls.text", "def f():\n    from .report import write") == [
        "bertcls.text -> bertcls.report.write"
    ]
    assert wrong_arrows("bertcls.data.load", "from ..optim import freeze") == ["bertcls.data.load -> bertcls.optim"]
    assert wrong_arrows("bertcls.data.load", "from bertcls.text import clean") == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_nothing_private_of_another_module_is_used():
    sources = {module: path.read_text() for module, path in MODULES.items()}
    recipes = {f"recipes.{path.stem}": path.read_text() for path in sorted((ROOT / "recipes").glob("*.py"))}
    assert len(recipes) >= 11
    private = {module: private_of(source) for module, source in sources.items()}
    reaches = {module: reached_for(module, source, private) for module, source in {**sources, **recipes}.items()}
    assert {module: names for module, names in reaches.items() if names} == {}
    assert reached_for("bertcls.x", "from .text import _clean\nmodel._head(1)", {"bertcls.y": {"_head"}}) == [
        "_clean",
        "_head",
    ]


def test_files_stay_small():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    limits = {"bertcls.modeling": 600}  # it travels alone
    assert {module: size for module, size in lines.items() if size > limits.get(module, 460)} == {}
    assert sum(size for module, size in lines.items() if floor_of(module) in ("core", "ground")) <= 3_890
    assert sum(lines.values()) <= 14_200
    for path in MODULES.values():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say in its first line what its job is"


def test_recipes_stay_small():
    for path in sorted((ROOT / "recipes").glob("*.py")):
        source = path.read_text()
        names = {
            alias.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom) and node.module.startswith("bertcls")
            for alias in node.names
        }
        most_lines, most_names = (110, 16) if path.stem.endswith("_finetune") else (160, 20)
        assert len(source.splitlines()) <= most_lines and len(names) <= most_names, path


def main_of(path: Path) -> list[str]:
    source = path.read_text()
    return source[source.index("def main(") :].splitlines()


ALLOWED = [  # lines in which the mains of the data-set recipes may differ from that of SST-2
    r"def main\(args: (Newsgroups|Recipe)Arguments, training_args: TrainingArguments\) -> dict:",
    r"    run_recipe\(main, (Newsgroups|Recipe)Arguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__\)",
]


def test_the_recipes_of_data_sets_differ_in_their_defaults_alone():
    first = main_of(ROOT / "recipes" / "sst2_finetune.py")
    assert sum(bool(re.match(r"    # \d\. ", line)) for line in first) == 6
    for name in (*DATA_RECIPES[1:], "csv"):
        other = main_of(ROOT / "recipes" / f"{name}_finetune.py")
        changed = [line[2:] for line in difflib.ndiff(first, other) if line[0] in "+-"]
        assert [line for line in changed if not any(re.fullmatch(allowed, line) for allowed in ALLOWED)] == [], name


def test_public_names_are_typed_for_an_editor():
    source = (PACKAGE / "__init__.py").read_text()
    typed = {
        (node.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    }
    assert typed == {(f"bertcls.{module}", name) for name, module in bertcls._MODULE_OF.items()}
    assert len(bertcls.__all__) <= 28 and all(getattr(bertcls, name) for name in bertcls.__all__)
