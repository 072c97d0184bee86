"""The report of a run as one page that opens offline: figures and styles are inside, and there is no script."""

import base64
import math
import shlex
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from bertcls.layout import DRAWN
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.report.formats import format_p, format_value

PAGE = "report.html"
FIGURES = ("confusion", "reliability", "coverage", "label_shares", "lengths", "curves", "before_after")
_TEMPLATE = "report.html.jinja"
_SHOWN_CHARACTERS = 300  # of a text; the rest unfolds
_WIDE = 1000  # pixels, from which on a figure scrolls on a telephone rather than shrink
_SCALE = 0.85  # of other figures, so that their letters are as large as the text beside them
_BESIDE = {  # shown beside the main score
    "test_f1_micro": "F1 over all decisions (micro)",
    "test_f1_macro": "F1, mean of the classes (macro)",
    "test_precision_macro": "precision (macro)",
    "test_recall_macro": "recall (macro)",
    "test_window_accuracy": "accuracy per window",
    "test_vote_accuracy": "accuracy by vote of the windows",
    "test_rmse": "RMSE, in the unit of the labels",
    "test_mae": "mean absolute error, in the same unit",
    "test_r2": "R², explained share of the variance",
    "test_spearman": "Spearman's rank correlation",
}
_PER_CLASS = ("precision", "recall", "f1", "support")
_BEFORE_AFTER = {
    "accuracy": "accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "log_loss": "log loss",
    "rmse": "RMSE",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "r2": "R²",
}


def write_page(facts: dict, folder: Path) -> Path:
    """Writes `report.html`, which needs no other file and loads nothing.

    Figures are those of `FIGURES` that lie in the folder as PNG. Every text is escaped, and a policy in the page
    forbids scripts and loading besides.

    Args:
        facts: the content of `metrics.json`. `headline`, `scores` and `task` are needed; a section without facts is
            left out.
        folder: where the figures are and the page goes.

    Returns:
        the page.

    Raises:
        ValueError: one of the three is missing.
    """
    if missing := [name for name in ("headline", "scores", "task") if name not in facts]:
        raise ValueError(
            f"Found no {', '.join(missing)} in the facts of the report; expected what bertcls.report gathers. Give "
            "the content of report/metrics.json."
        )
    filters = {
        "score": _score,
        "percent": _percent,
        "count": _count,
        "probability": _probability,
        "p_value": lambda value: format_p(value) if _known(value) else "–",
        "value": _value,
        "command": _command,
        "plain": _plain,
        "head": lambda text: text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…",
        "is_long": lambda text: len(text) > _SHOWN_CHARACTERS,
    }
    figures = {name: _figure(Path(folder, f"{name}.png")) for name in FIGURES if Path(folder, f"{name}.png").is_file()}
    context = _context(facts, figures)
    page = Path(folder, PAGE)
    page.write_text(load_template(_TEMPLATE, filters).render(context), encoding="utf-8", errors="replace")
    return page


def load_template(name: str, filters: dict[str, Callable] | None = None) -> Template:
    """A page of this package: values are escaped, and one that is missing is an error.

    Args:
        name: of the file beside this one.
        filters: for values, by name.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", Path(__file__).parents[1] / "serve"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)


def _context(facts: dict, figures: dict) -> dict:
    """What the template needs; facts that are missing are empty."""
    scores, task = facts["scores"], facts["task"]
    kind = task["problem_type"]
    main, called = "accuracy", "accuracy"
    if kind == REGRESSION:
        main, called = "pearson", "Pearson's correlation"
    elif kind == MULTI_LABEL:
        called = "texts with exactly the right labels"
    measured = "test_mae" if kind == REGRESSION else "test_accuracy"  # what baselines and slices show
    encoder = {key: scores.get(f"{measured}{end}") for key, end in (("score", ""), ("low", "_low"), ("high", "_high"))}
    names = list(task.get("labels") or [])
    per_class = [
        {"number": number, "name": name} | {key: scores[f"test_{key}_{name}"] for key in _PER_CLASS}
        for number, name in enumerate(names)
        if all(f"test_{key}_{name}" in scores for key in _PER_CLASS)
    ]
    calibration = {"bins": [], "coverage": []} | (facts.get("calibration") or {})
    probes = _groups(facts.get("probes") or [])
    before_after = [
        {"name": name, "before": scores.get(f"before_{key}"), "after": scores.get(f"eval_{key}")}
        for key, name in _BEFORE_AFTER.items()
        if f"before_{key}" in scores and f"eval_{key}" in scores
    ]
    audit = (facts.get("audit") or {}).get("lines") or []
    context = {
        "headline": facts["headline"],
        "scores": scores,
        "task": {"rows": {}, "label_shares": {}, "reported_split": "test"} | task,
        "kind": kind,
        "main": {
            "key": f"test_{main}",
            "name": called,
            "value": scores[f"test_{main}"],
            "low": scores.get(f"test_{main}_low"),
            "high": scores.get(f"test_{main}_high"),
        },
        "beside": [(key, name, scores[key]) for key, name in _BESIDE.items() if key in scores],
        "names": names,
        "per_class": per_class,
        "matrix": scores.get("test_confusion_matrix") or [],
        "calibration": calibration,
        "probes": probes,
        "before_after": before_after,
        "audit": audit,
        "drawn": task.get("reported_split") == DRAWN,
        "figures": figures,
        "encoder": encoder,
        "measure": facts.get("measure", "accuracy"),
        "short": "error" if kind == REGRESSION else "accuracy",  # in the head of a column
        "several": kind == MULTI_LABEL,
        "axes": {key: _axis([encoder, *facts[key]]) for key in ("baselines", "slices") if facts.get(key)},
        "slices": [(name, list(parts)) for name, parts in groupby(facts.get("slices") or [], itemgetter("slice"))],
        **{key: facts.get(key) or [] for key in ("baselines", "confusions", "errors")},
        **{key: facts.get(key) or {} for key in ("source", "run", "arguments", "model")},
    }
    present = {
        "baselines": ("Simple baselines", context["baselines"]),
        "classes": ("Scores per class", per_class or context["matrix"] or "confusion" in figures),
        "calibration": (
            "Calibration and coverage" if calibration["coverage"] else "Calibration",
            calibration["bins"] or calibration["coverage"],
        ),
        "slices": ("Slices", context["slices"]),
        "confusions": ("Confused pairs", context["confusions"]),
        "errors": ("Largest errors" if kind == REGRESSION else "Most confident errors", context["errors"]),
        "probes": ("Probes", probes),
        "data": ("Data", task.get("rows") or audit),
        "curves": ("Training curves", "curves" in figures),
        "before-after": ("Before and after training", before_after),
        "made": ("How it was made", context["run"] or context["arguments"] or context["model"]),
    }
    return context | {"sections": {name: title for name, (title, content) in present.items() if content}}


def _groups(probes: list[dict]) -> list[dict]:
    """Probes by group, with whether they got different answers where none was expected."""
    groups = []
    for number in dict.fromkeys(probe["group"] for probe in probes):
        members = [probe for probe in probes if probe["group"] == number]
        free = all(probe.get("expected") is None for probe in members)
        free = free and not any(isinstance(probe["prediction"], float) for probe in members)
        answers = {str(probe["prediction"]) for probe in members}
        groups.append({"number": number, "probes": members, "apart": free and len(answers) > 1})
    return groups


def _axis(rows: list[dict]) -> tuple[float, float]:
    """Ends of a line that holds the intervals of all rows, at whole tenths, tens and so on.

    >>> _axis([{"low": 0.71, "high": 0.8}, {"low": 0.83, "high": 0.87}]), _axis([{"low": 3.0, "high": 16.0}])
    ((0.7, 0.9), (0.0, 20.0))
    """
    rows = [row for row in rows if row["low"] is not None]
    low, high = min((row["low"] for row in rows), default=0), max((row["high"] for row in rows), default=1)
    step = 10.0 ** math.ceil(math.log10(max(high - low, 1e-6)) - 0.7)
    return round(math.floor(low / step) * step, 9), round(math.ceil(high / step) * step, 9)


def _figure(path: Path) -> dict:
    """A PNG as it stands in a page: base64, and the pixels to show it in; its own lie at bytes 16 to 24."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    wide = width > _WIDE
    scale = 1 if wide else _SCALE
    size = {"width": round(width * scale), "height": round(height * scale)}
    return {"data": base64.b64encode(data).decode(), "wide": wide, **size}


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _score(value: float | None) -> str:
    return f"{value:.4f}" if _known(value) else "–"


def _percent(value: float | None) -> str:
    return f"{value:.1%}".replace("%", " %") if _known(value) else "–"


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if _known(value) else "–"


def _probability(value: float | None) -> str:
    """Three decimals, never rounded to certainty.

    >>> _probability(0.99996), _probability(0.5), _probability(1e-5)
    ('> 0.999', '0.500', '< 0.001')
    """
    if not _known(value):
        return "–"
    return "> 0.999" if 0.9995 <= value < 1 else "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def _plain(value: object) -> str:
    """A label, a list of them, or none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return format_value(value)
    return ", ".join(map(str, value)) or "no label" if isinstance(value, list | tuple) else str(value)


def _value(value: object) -> str:
    """A setting or a measurement in one line.

    >>> _value(732.8541), _value(51234.56), _value(5e-05), _value({"process": 2.5, "accelerator": None})
    ('732.9', '51,235', '5e-05', 'process 2.5, accelerator –')
    """
    if value is None or value == []:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        words = [one if isinstance(one, str) else _value(one) for one in value]
        return shlex.join(words) if all(isinstance(one, str) for one in value) else ", ".join(words)
    return str(value)


def _command(words: list[str]) -> str:
    """A command line with an option a line.

    >>> print(_command(["x.py", "--text", "a b", "--seed", "1"]))
    x.py \\
      --text 'a b' \\
      --seed 1
    """
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("--"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return " \\\n  ".join(lines)
