"""The report of a run as one page that opens offline: figures and styles are inside, and there is no script."""

import base64
import math
import shlex
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, StrictUndefined, Template

from bertcls.layout import DRAWN, FOLDS
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.report.formats import (
    ERRORS,
    MANY_CLASSES,
    SHADED,
    STRONG,
    format_duration,
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
    figures = {name: _figure(path) for name in FIGURES if (path := Path(folder, f"{name}.png")).is_file()}
    template = load_template("report.html.jinja", facts_filters(facts), undefined=ChainableUndefined)
    page = template.render(_context(facts, figures))
    Path(folder, PAGE).write_text(page, encoding="utf-8", errors="replace")
    return Path(folder, PAGE)


def load_template(name: str, filters: dict[str, Callable] | None = None, **options) -> Template:
    """A template of this package: by default values are escaped for HTML, and one that is missing is an error."""
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True} | options
    environment = Environment(loader=FileSystemLoader(_FOLDERS), **settings)
    environment.filters |= filters or {}
    return environment.get_template(name)


def facts_filters(facts: dict) -> dict[str, Callable]:
    """How templates write the values of facts, scores with as many decimals as the reported rows support.

    `measured` is for the measure of baselines and slices, an accuracy or an error.
    """
    rows, error = facts["scores"].get("test_samples"), facts["task"]["problem_type"] == REGRESSION
    numbers = {
        "score": lambda value, of=rows: format_score(value, of),
        "error": lambda value, of=rows: format_score(value, of, error=True),
        "measured": lambda value: format_score(value, rows, error=error),
        "percent": lambda value: f"{100 * value:.1f} %",
        "count": "{:,.0f}".format,
        "probability": _probability,
        "p_value": format_p,
        "duration": format_duration,
    }
    return {name: _or_dash(write) for name, write in numbers.items()} | {
        "value": _value,
        "shaded": _shaded,
        "command": _command,
        "label": lambda value: "no label" if value == [] else _value(value),
    }


def _or_dash(write: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *options: "–" if value is None or math.isnan(value) else write(value, *options)


def shown_facts(facts: dict) -> dict:
    """The facts, empty where missing, and what templates need besides: splits and scores by the report's names."""
    empty = dict.fromkeys(("source", "model", "arguments", "chosen", "run", "calibration"), {})
    empty |= dict.fromkeys(("baselines", "slices", "probes"), [])
    facts = empty | {name: part for name, part in facts.items() if part is not None}
    task = {"rows": {}, "label_shares": {}, "labels": [], "reported_split": None} | facts["task"]
    kind, reported = task["problem_type"], task["reported_split"]
    drawn = reported == DRAWN or str(reported).startswith("fold ")
    found = {"task": task, "kind": kind, "drawn": drawn, "names": score_names(facts["scores"], kind)}
    found["folded"] = reported == FOLDS  # whose rows the model was trained on, and was not asked
    found |= {"splits": shown_splits(task["rows"], reported), "shares": shown_splits(task["label_shares"], reported)}
    return {"measure": "accuracy", "short": "error" if kind == REGRESSION else "accuracy"} | facts | found


def _context(facts: dict, figures: dict) -> dict:
    """What the template of the page needs."""
    facts = shown_facts(facts)
    scores, task, kind, names, shares = (facts[key] for key in ("scores", "task", "kind", "names", "shares"))
    main, measured = ("pearson", "mae") if kind == REGRESSION else ("accuracy", "accuracy")
    encoder = _with_interval(scores, f"test_{measured}")  # beside the baselines
    reported, many = task["reported_split"] or "test", len(task["labels"]) > MANY_CLASSES
    largest = {name: max((part.get(name, 0) for part in shares.values()), default=0) for name in task["labels"]}
    rows = f"{scores['test_samples']:,} rows of {reported}" if "test_samples" in scores else None
    context = facts | {
        "frequent": sorted(task["labels"], key=lambda name: -largest[name])[:MANY_CLASSES],
        "reported": reported,
        "about": [*filter(None, (facts.get("name"), facts.get("data"), rows, facts["run"].get("started")))],
        "main": {"key": f"test_{main}", "name": names[main]} | _with_interval(scores, f"test_{main}"),
        "beside": [
            {"key": f"test_{key}", "name": name, "value": scores[f"test_{key}"], "error": key in ERRORS}
            for key, name in names.items()
            if f"test_{key}" in scores and key != main
        ],
        "probes": _groups(facts["probes"]),
        "before_after": [
            {"name": name, "error": key in ERRORS} | {when: scores[f"{when}_{key}"] for when in ("before", "eval")}
            for key, name in names.items()
            if f"before_{key}" in scores and f"eval_{key}" in scores and facts["chosen"].get("made", 1)
        ],
        "figures": figures,
        "encoder": encoder,
        "several": kind == MULTI_LABEL,
        "slices": [(name, list(parts)) for name, parts in groupby(facts["slices"], itemgetter("slice"))],
        "axes": {key: _axis([encoder, *facts[key]]) for key in ("baselines", "slices") if facts[key]},
    }
    coverage = facts["calibration"].get("coverage")
    classes = scores.get("test_per_class") or scores.get("test_confusion_matrix") or many
    classes = classes or {"confusion", "predictions"} & {*figures}
    sections = {  # by their ids: titles, and what a section needs
        "baselines": ("Simple baselines", facts["baselines"]),
        "classes": ("Predictions" if kind == REGRESSION else "Scores per class", classes),
        "calibration": ("Calibration and coverage" if coverage else "Calibration", facts["calibration"]),
        "slices": ("Slices", context["slices"]),
        "confusions": ("Confused pairs", facts.get("confusions")),
        "deciding": ("Words that decide", facts.get("deciding")),
        "errors": ("Largest errors" if kind == REGRESSION else "Most confident errors", facts.get("errors")),
        "probes": ("Probes", context["probes"]),
        "data": ("Data", task["rows"] or facts.get("audit")),
        "curves": ("Training curves", "curves" in figures),
        "before-after": ("Before and after training", context["before_after"]),
        "made": ("How it was made", facts["run"] or facts["arguments"] or facts["model"]),
    }
    return context | {"sections": {name: title for name, (title, content) in sections.items() if content}}


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
    """Round ends of a line that holds the intervals of all rows.

    >>> _axis([{"low": 0.71, "high": 0.8}, {"low": 0.83, "high": 0.87}]), _axis([{"low": 3.0, "high": 16.0}])
    ((0.7, 0.9), (0.0, 20.0))
    """
    from matplotlib.ticker import MaxNLocator  # the service, which takes a template from here, does without

    ends = [row[end] for row in rows for end in ("low", "high") if row[end] is not None] or [0, 1]
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(min(ends), max(ends)).round(9)
    return float(ticks[0]), float(ticks[-1])


def _figure(path: Path) -> dict:
    """A PNG as it stands in a page: base64, and the pixels to show it in; its own lie at bytes 16 to 24."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    scale = 1 if width > _WIDE else _SCALE
    found = {"width": round(width * scale), "height": round(height * scale), "wide": width > _WIDE}
    return found | {"data": base64.b64encode(data).decode()}


def _probability(value: float) -> str:
    """Three decimals, never rounded to certainty.

    >>> _probability(0.99996), _probability(0.5), _probability(1e-5)
    ('> 0.999', '0.500', '< 0.001')
    """
    return "> 0.999" if 0.9995 <= value < 1 else "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


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


def _shaded(error: dict) -> list[dict]:
    """The words of an error's text: what stands `before` each, and how its share of the strongest is shown.

    >>> word = {"text": "good", "start": 2, "end": 6, "adds": -0.5, "cleaned": False, "second": False}
    >>> _shaded({"text": "a good", "why": {"words": [word], "most": 0.5, "second": 0}})[0]
    {'before': 'a ', 'text': 'good', 'adds': '-0.50', 'kind': 'against strong', 'share': 45, 'line': 3.0}
    """
    why, parts, end = error["why"], [], 0
    for number, word in enumerate(why["words"]):
        start, share = word["start"] + word["second"] * why["second"], word["adds"] / (why["most"] or 1)
        kind = ("against" if share < 0 else "for") + (" strong" if abs(share) > STRONG else "")
        before = " " * (number > 0) if word["cleaned"] else error["text"][end:start]
        shown = {"before": before, "text": word["text"], "adds": f"{word['adds']:+.2f}"}
        shown |= {"kind": kind * (abs(share) >= SHADED), "share": round(45 * abs(share))}
        parts.append(shown | {"line": round(0.5 + 2.5 * abs(share), 1)})
        end = start + len(word["text"])
    return parts


def _command(words: list[str]) -> str:
    """A command line with an option a line."""
    before = {True: " \\\n  ", False: " "}
    return "".join(before[word.startswith("--")] + shlex.quote(word) for word in words).strip()
