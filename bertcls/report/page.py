"""The report of a run as one page that opens offline: figures and styles are inside, and there is no script."""

import base64
import math
import shlex
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, StrictUndefined, Template

from bertcls.layout import DRAWN
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.report.formats import (
    ERRORS,
    MANY_CLASSES,
    format_p,
    format_score,
    format_value,
    score_names,
    shown_splits,
)

PAGE = "report.html"
FIGURES = "confusion predictions reliability coverage label_shares lengths curves before_after".split()
_WIDE = 1000  # pixels, from which on a figure scrolls on a telephone rather than shrink
_SCALE = 0.85  # of other figures, so that their letters are as large as the text beside them
_FOLDERS = [Path(__file__).parent / "templates", Path(__file__).parents[1] / "serve"]


def write_page(facts: dict, folder: Path) -> Path:
    """Writes `report.html` from the content of `metrics.json` and the figures that lie in the folder.

    A section without facts is left out. Every text is escaped, and a policy in the page forbids scripts and loading.
    """
    rows = facts["scores"].get("test_samples")
    error = facts["task"]["problem_type"] == REGRESSION  # which the baselines and slices have for a measure
    filters = {
        "score": lambda value, of=rows: _known(value, lambda: format_score(value, of)),
        "error": lambda value, of=rows: _known(value, lambda: format_score(value, of, error=True)),
        "measured": lambda value: _known(value, lambda: format_score(value, rows, error=error)),
        "percent": lambda value: _known(value, lambda: f"{value:.1%}".replace("%", " %")),
        "count": lambda value: _known(value, lambda: f"{value:,.0f}"),
        "probability": _probability,
        "p_value": lambda value: "–" if value is None else format_p(value),
        "value": _value,
        "command": _command,
        "label": lambda value: "no label" if value == [] else _value(value),
    }
    figures = {name: _figure(Path(folder, f"{name}.png")) for name in FIGURES if Path(folder, f"{name}.png").is_file()}
    template = load_template("report.html.jinja", filters, undefined=ChainableUndefined)
    page = template.render(_context(facts, figures))
    Path(folder, PAGE).write_text(page, encoding="utf-8", errors="replace")
    return Path(folder, PAGE)


def load_template(name: str, filters: dict[str, Callable] | None = None, **options) -> Template:
    """A template of this package: by default values are escaped for HTML, and one that is missing is an error."""
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True} | options
    environment = Environment(loader=FileSystemLoader(_FOLDERS), **settings)
    environment.filters |= filters or {}
    return environment.get_template(name)


def _context(facts: dict, figures: dict) -> dict:
    """The facts, and what the template needs besides."""
    scores, task = facts["scores"], {"rows": {}, "label_shares": {}, "labels": []} | facts["task"]
    kind, reported, run = task["problem_type"], task.get("reported_split") or "test", facts.get("run") or {}
    main, measured = ("pearson", "mae") if kind == REGRESSION else ("accuracy", "accuracy")
    names, per_class = score_names(scores, kind), scores.get("test_per_class") or {}
    encoder = _with_interval(scores, f"test_{measured}")  # beside the baselines
    coverage = (facts.get("calibration") or {}).get("coverage")
    shares = shown_splits(task["label_shares"], reported)
    frequent = sorted(
        task["labels"], key=lambda label: -max((part.get(label, 0) for part in shares.values()), default=0)
    )
    rows = f"{scores['test_samples']:,} rows of {reported}" if "test_samples" in scores else None
    context = facts | {
        "task": task,
        "splits": shown_splits(task["rows"], reported),
        "shares": shares,
        "frequent": frequent[:MANY_CLASSES],
        "reported": reported,
        "kind": kind,
        "about": [*filter(None, (facts.get("name"), facts.get("data"), rows, run.get("started")))],
        "main": {"key": f"test_{main}", "name": names[main]} | _with_interval(scores, f"test_{main}"),
        "beside": [
            {"key": f"test_{key}", "name": name, "value": scores[f"test_{key}"], "error": key in ERRORS}
            for key, name in names.items()
            if f"test_{key}" in scores and key != main
        ],
        "per_class": [{"number": number, "name": name} | per_class[name] for number, name in enumerate(per_class)],
        "matrix": scores.get("test_confusion_matrix"),
        "probes": _groups(facts.get("probes") or []),
        "before_after": [
            {"name": name, "error": key in ERRORS} | {when: scores[f"{when}_{key}"] for when in ("before", "eval")}
            for key, name in names.items()
            if f"before_{key}" in scores and f"eval_{key}" in scores
        ],
        "drawn": reported == DRAWN,
        "figures": figures,
        "encoder": encoder,
        "measure": facts.get("measure", "accuracy"),
        "short": "error" if kind == REGRESSION else "accuracy",  # in the head of a column
        "several": kind == MULTI_LABEL,
        "slices": [(name, list(parts)) for name, parts in groupby(facts.get("slices") or [], itemgetter("slice"))],
        "axes": {key: _axis([encoder, *facts[key]]) for key in ("baselines", "slices") if facts.get(key)},
    }
    present = {
        "baselines": ("Simple baselines", facts.get("baselines")),
        "classes": (
            "Predictions" if kind == REGRESSION else "Scores per class",
            per_class
            or context["matrix"]
            or len(task["labels"]) > MANY_CLASSES
            or {"confusion", "predictions"} & {*figures},
        ),
        "calibration": ("Calibration and coverage" if coverage else "Calibration", facts.get("calibration")),
        "slices": ("Slices", context["slices"]),
        "confusions": ("Confused pairs", facts.get("confusions")),
        "errors": ("Largest errors" if kind == REGRESSION else "Most confident errors", facts.get("errors")),
        "probes": ("Probes", context["probes"]),
        "data": ("Data", task.get("rows") or facts.get("audit")),
        "curves": ("Training curves", "curves" in figures),
        "before-after": ("Before and after training", context["before_after"]),
        "made": ("How it was made", facts.get("run") or facts.get("arguments") or facts.get("model")),
    }
    return context | {"sections": {name: title for name, (title, content) in present.items() if content}}


def _with_interval(scores: dict, key: str) -> dict:
    return {name: scores.get(f"{key}{end}") for name, end in (("score", ""), ("low", "_low"), ("high", "_high"))}


def _groups(probes: list[dict]) -> list[dict]:
    """Probes by group, with whether they got different answers where none was expected."""
    groups = []
    for number, members in groupby(probes, itemgetter("group")):
        members = list(members)
        free = all(probe["expected"] is None and not isinstance(probe["prediction"], float) for probe in members)
        answers = {str(probe["prediction"]) for probe in members}
        groups.append({"number": number, "probes": members, "apart": free and len(answers) > 1})
    return groups


def _axis(rows: list[dict]) -> tuple[float, float]:
    """Ends of a line that holds the intervals of all rows, at whole tenths, tens and so on.

    >>> _axis([{"low": 0.71, "high": 0.8}, {"low": 0.83, "high": 0.87}]), _axis([{"low": 3.0, "high": 16.0}])
    ((0.7, 0.9), (0.0, 20.0))
    """
    ends = [row[end] for row in rows for end in ("low", "high") if row[end] is not None] or [0, 1]
    step = 10.0 ** math.ceil(math.log10(max(max(ends) - min(ends), 1e-6)) - 0.7)
    return round(math.floor(min(ends) / step) * step, 9), round(math.ceil(max(ends) / step) * step, 9)


def _figure(path: Path) -> dict:
    """A PNG as it stands in a page: base64, and the pixels to show it in; its own lie at bytes 16 to 24."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    wide = width > _WIDE
    scale = 1 if wide else _SCALE
    size = {"width": round(width * scale), "height": round(height * scale)}
    return {"data": base64.b64encode(data).decode(), "wide": wide, **size}


def _known(value: float | None, write: Callable[[], str]) -> str:
    return "–" if value is None or math.isnan(value) else write()


def _probability(value: float | None) -> str:
    """Three decimals, never rounded to certainty.

    >>> _probability(0.99996), _probability(0.5), _probability(1e-5)
    ('> 0.999', '0.500', '< 0.001')
    """
    if value is not None and 0.9995 <= value < 1:
        return "> 0.999"
    return "< 0.001" if value is not None and 0 < value < 0.0005 else _known(value, lambda: f"{value:.3f}")


def _value(value: object) -> str:
    """A label, a setting or a measurement, or several of them, in one line.

    >>> _value(732.8541), _value(5e-05), _value({"process": 2.5, "accelerator": None}), _value(["a", "b"])
    ('732.9', '5e-05', 'process 2.5, accelerator –', 'a, b')
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MANY_CLASSES:,} more" * (len(value) > MANY_CLASSES)
        return ", ".join(map(_value, value[:MANY_CLASSES])) + more or "–"
    return "–" if value is None else format_value(value) if isinstance(value, float) else str(value)


def _command(words: list[str]) -> str:
    """A command line with an option a line."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("--"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return " \\\n  ".join(lines)
