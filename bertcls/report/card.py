"""The model card of a run: what the model is, how good, how it was made, and how to use it."""

import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path, PurePath, PureWindowsPath

from huggingface_hub import EvalResult, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, StrictUndefined

from bertcls.data.tables import file_format
from bertcls.layout import CARD, DRAWN
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.report.formats import format_p

TEMPLATE = Path(__file__).parent / "templates" / "card.md.jinja"
_KINDS = {
    SINGLE_LABEL: "gives a text one of {} labels",
    MULTI_LABEL: "gives a text any number of {} labels",
    REGRESSION: "gives a text a number",
}
_METRICS = {  # score: (type in the metadata, name)
    "pearson": ("pearsonr", "Pearson correlation"),
    "accuracy": ("accuracy", "accuracy"),
    "f1_micro": ("f1", "F1 micro"),
    "f1_macro": ("f1", "F1 macro"),
    "rmse": ("rmse", "RMSE"),
    "mae": ("mae", "mean absolute error"),
    "window_accuracy": ("accuracy", "accuracy per window"),
    "vote_accuracy": ("accuracy", "accuracy per document by vote"),
}
_SHOWN = (  # of the facts, apart from the task; the others hold texts of the data
    "headline",
    "scores",
    "source",
    "model",
    "arguments",
    "run",
    "audit",
    "baselines",
    "calibration",
    "slices",
    "measure",
    "stock",
)
_FEW_ROWS = 30  # of a label: its own score says little
_SHOWN_LABELS = 50
_TOKEN = re.compile(r"\bhf_\w{6,}")
_PATH = re.compile(r"(?<![\w./:~-])~?(?:/[^\s/'\"`|,;()]+){2,}/?|\b[A-Za-z]:\\[^\s'\"`|,;()]+")
_WHOLE_PATH = re.compile(r"(?:~?/|\.\.?/|[A-Za-z]:[\\/])(?:(?!\s[-~/])[^\n\t])*")  # no command line


def write_card(
    facts: dict, run_dir: str, *, repo_id: str | None = None, language: str | None = None, license: str | None = None
) -> Path:
    """Writes the model card, `README.md`, from what a run found. It holds no text of the data, token or local path.

    Args:
        facts: of `write_report`, with `stock` as `export_stock` returns it; what is missing is left out.
        run_dir: where the file goes.
        repo_id: name in the snippets; `None` takes the name of the folder, and `push_folder` puts in the repository's.
        language: of the texts, for the metadata: an ISO code such as `en`, or `multilingual`.
        license: of the model, for the metadata, in the Hub's words; `None` states none.

    Returns:
        path of the card.

    Raises:
        OSError: it cannot be written; the former card is whole.
    """
    repo_id = repo_id or Path(run_dir).resolve().name
    task, source, model = facts["task"], facts.get("source") or {}, facts.get("model") or {}
    hub_dataset = source.get("dataset") if _is_hub_id(source.get("dataset"), owner=True) else None
    hub_encoder = model.get("encoder") if _is_hub_id(model.get("encoder")) else None
    facts = {"task": task} | {name: _public(facts[name], run_dir) for name in _SHOWN if name in facts}
    source, model, arguments = (facts.get(name) or {} for name in ("source", "model", "arguments"))
    data_name = source.get("dataset") or ", ".join(source.get("files") or []) or "data of its own"
    from_scratch = str(arguments.get("from_scratch", False)).lower() == "true"
    drawn = task.get("reported_split") == DRAWN
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=hub_dataset or data_name,
            dataset_name=data_name,
            dataset_config=source.get("config"),
            dataset_split=None if drawn else task.get("reported_split"),
            dataset_revision=source.get("revision"),
            metric_type=kind,
            metric_name=name,
            metric_value=float(facts["scores"][f"test_{score}"]),
        )
        for score, (kind, name) in _metrics(task["problem_type"]).items()
        if f"test_{score}" in facts["scores"]
    ]
    data = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["bertcls", task["problem_type"].replace("_", "-")],
        base_model=None if from_scratch else hub_encoder,
        datasets=None if hub_dataset is None else [hub_dataset],
        model_name=repo_id.split("/")[-1],
        eval_results=results,
    )
    contract = model.get("contract") or {}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    environment.filters |= {"cell": _cell, "number": _number, "minutes": _minutes, "p": format_p}
    environment.filters["interval"] = lambda row: (
        "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        headline=(facts.get("headline") or "").strip().split("\n")[0],
        kind=task["problem_type"],
        does=_KINDS[task["problem_type"]].format(len(task["labels"])),
        data_name=data_name,
        encoder=model.get("encoder"),
        from_scratch=from_scratch,
        parameters=model.get("parameters"),
        pooling=model.get("pooling"),
        pairs=contract.get("pair_truncation") is not None,
        max_length=contract.get("max_length"),
        contract={name: value for name, value in contract.items() if value is not None and value != []},
        labels=_label_rows(task),
        more_labels=max(len(task["labels"]) - _SHOWN_LABELS, 0),
        task=_with_gaps(task),
        drawn=drawn,
        source=_with_gaps(source),
        scores=_with_gaps(facts["scores"]),
        score_rows=_score_rows(facts["scores"], task["problem_type"]),
        baselines=facts.get("baselines") or [],
        calibration=_with_gaps(facts.get("calibration") or {}),
        slices=facts.get("slices") or [],
        measure=facts.get("measure", "accuracy"),
        audit=[line.replace("```", "'''") for line in (facts.get("audit") or {}).get("lines", [])],
        arguments={
            name: value for name, value in arguments.items() if not name.endswith("token") and value is not None
        },
        run=_with_gaps(facts.get("run") or {}),
        limits=_limits(facts, data_name, from_scratch),
        stock=_with_gaps(facts.get("stock") or {}),
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")  # which parses the metadata
    return _write_whole(Path(run_dir, CARD), str(card))


def _with_gaps(values: dict) -> dict:
    """Values of which the template may find some missing."""
    return defaultdict(type(None), values)


def _is_hub_id(name: str | None, *, owner: bool = False) -> bool:
    """Whether a name is one of the Hub: well formed, and nothing that lies here; with `owner` also `owner/name`."""
    if name is None or os.path.exists(os.path.expanduser(name)) or file_format(name) or owner and "/" not in name:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _public(value, run_dir: str):
    """A value of the facts without tokens, and with local paths cut to their last part."""
    if isinstance(value, dict):
        return {name: _public(part, run_dir) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_public(part, run_dir) for part in value]
    if isinstance(value, str | PurePath):
        return _public_text(str(value), run_dir)
    return value


def _public_text(text: str, run_dir: str) -> str:
    """
    >>> _public_text("python /home/me/run.py --token hf_abcdefgh --data ~/my/data", "runs/sst2")
    'python run.py --token *** --data data'
    >>> _public_text("google-bert/bert-base-uncased", "runs/sst2"), _public_text("C:\\\\my data\\\\x.csv", "runs/sst2")
    ('google-bert/bert-base-uncased', 'x.csv')
    """
    text = _TOKEN.sub("***", text)
    if token := get_token():
        text = text.replace(token, "***")
    parted = "/" in text or "\\" in text
    if parted and (_WHOLE_PATH.fullmatch(text) or os.path.exists(text)):
        return _last_part(text)
    text = _PATH.sub(lambda found: _last_part(found[0]), text)
    places = [Path(run_dir).resolve(), run_dir, Path.home(), Path(tempfile.gettempdir()), Path.cwd()]
    for place in sorted(map(str, places), key=len, reverse=True):
        if len(Path(place).parts) > 1:
            text = text.replace(f"{place}{os.sep}", "").replace(place, _last_part(place))
    return text


def _last_part(path: str) -> str:
    return PureWindowsPath(path).name or "."  # which knows both kinds of slashes


def _label_rows(task: dict) -> list[tuple[str, list[str]]]:
    """Each label with its share of every split."""
    shares = task.get("label_shares") or {}
    return [
        (label, [f"{part[label]:.1%}" if label in part else "" for part in shares.values()])
        for label in task["labels"][:_SHOWN_LABELS]
    ]


def _metrics(kind: str) -> dict[str, tuple[str, str]]:
    sets = {"accuracy": ("accuracy", "accuracy of whole label sets")} if kind == MULTI_LABEL else {}
    return _METRICS | sets


def _score_rows(scores: dict, kind: str) -> list[tuple[str, str, float, str]]:
    """Which rows, which score, its value, and its 95 % interval where there is one."""
    rows = []
    for prefix, which in (("test", "reported"), ("eval", "selection"), ("before", "selection, before training")):
        for score, (_, name) in _metrics(kind).items():
            if (value := scores.get(f"{prefix}_{score}")) is not None:
                low, high = scores.get(f"{prefix}_{score}_low"), scores.get(f"{prefix}_{score}_high")
                rows.append((which, name, value, "" if low is None else f"{low:.4f} to {high:.4f}"))
    return rows


def _limits(facts: dict, data_name: str, from_scratch: bool) -> list[str]:
    """What this model was not shown to do, in sentences made from the facts."""
    task, scores, kind = facts["task"], facts["scores"], facts["task"]["problem_type"]
    tested, trained = scores.get("test_samples"), scores.get("train_samples", (task.get("rows") or {}).get("train"))
    found = [
        f"It was trained on {_count(trained)} and tested on {_count(tested)} of {data_name}. Texts of another kind, "
        "time or language were not tried."
    ]
    main = next((name for name in ("pearson", "accuracy") if f"test_{name}_low" in scores), None)
    if main is not None:
        low, high, name = scores[f"test_{main}_low"], scores[f"test_{main}_high"], _metrics(kind)[main][1]
        found.append(
            f"{_count(tested).capitalize()} leave its {name} on rows of this kind between {low:.4f} and {high:.4f} "
            "(95 % interval)."
        )
    baselines = facts.get("baselines") or []
    unbeaten = [row["name"] for row in baselines if not row["beaten"]]
    if unbeaten:
        found.append(f"On these rows it does not beat {' and '.join(unbeaten)} beyond noise.")
    elif not baselines:
        found.append("It was not compared with a simple model.")
    if few := _rare_labels(task, tested):
        found.append(f"Labels with few tested rows, whose own scores say little: {few}.")
    if weak := [row for row in facts.get("slices") or [] if row["differs"]]:
        groups = "; ".join(f"{row['slice']}, {row['group']}: {row['score']:.4f} of {row['rows']}" for row in weak)
        found.append(f"Its {facts.get('measure', 'accuracy')} differs beyond noise between groups of rows: {groups}.")
    if facts.get("calibration"):
        found.append(
            "Its probabilities are calibrated on held-out rows of this data alone; on other texts it may be surer "
            "than it is right."
        )
    elif kind != REGRESSION:
        found.append(
            "Its probabilities are not calibrated: of answers with 0.9, more or fewer than 9 in 10 are right."
        )
    found += _reading_limits((facts.get("model") or {}).get("contract") or {})
    if facts.get("audit") is None:
        found.append("Its data was not looked through for duplicates and for test texts in train.")
    elif facts["audit"].get("leaked"):
        found.append("The audit found texts of one split in another (see Data), which can raise the score.")
    encoder = (facts.get("model") or {}).get("encoder")
    if from_scratch:
        found.append("Its encoder was not pretrained: it knows no words beyond those of its training rows.")
    elif encoder is not None:
        found.append(f"What {encoder} learnt from its own texts, prejudice included, is in this model, too.")
    return found


def _reading_limits(contract: dict) -> list[str]:
    length, overlap, pairs = contract.get("max_length"), contract.get("overlap"), contract.get("pair_truncation")
    if length is None:
        return []
    if pairs == "none":
        text = (
            f"A pair longer than {length} tokens is read in windows of its second text, each behind the first one, "
            f"which is cut to half a window; what the windows say is pooled ({contract.get('window_pooling')})."
        )
    elif pairs is not None:
        which = {"only_first": "the first text", "only_second": "the second text"}.get(pairs, "the longer text")
        text = f"Of a pair longer than {length} tokens, the end of {which} is not read."
    elif contract.get("truncation", "none") == "none":
        text = (
            f"A text longer than {length} tokens is read in windows of {length} that share {overlap}; what they say "
            f"is pooled ({contract.get('window_pooling')}), so nothing that spans two windows is seen as a whole."
        )
    else:
        part = {"head": "first", "tail": "last", "head_tail": "first and last"}[contract["truncation"]]
        text = f"Of a text longer than {length} tokens only the {part} ones are read."
    return [text]


def _rare_labels(task: dict, tested: int | None) -> str:
    """Labels of which few rows were tested, with how many; empty where there are none."""
    shares = task.get("label_shares") or {}
    reported = shares.get("test") or shares.get(task.get("reported_split")) or {}
    rows = {label: round(share * tested) for label, share in reported.items()} if tested else {}
    few = [f"{label} ({count})" for label, count in rows.items() if count < _FEW_ROWS]
    return ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")


def _count(rows: int | None) -> str:
    return "an unknown number of rows" if rows is None else f"{rows:,} rows"


def _cell(value) -> str:
    """A value in a table of Markdown.

    >>> _cell("a|b\\n<c>"), _cell(["x", "y"]), _cell(5e-5)
    ('a\\\\|b &lt;c>', 'x, y', '5e-05')
    """
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _number(value: float) -> str:
    return f"{value:.4f}"


def _minutes(seconds: float) -> str:
    """
    >>> _minutes(42.4), _minutes(250), _minutes(9000)
    ('42 seconds', '4.2 minutes', '2.5 hours')
    """
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _write_whole(path: Path, text: str) -> Path:
    """Writes a file whole or not at all: a full disk leaves the former one."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise type(error)(
            f"The model card cannot be written to {path} ({error.strerror}); expected a folder of yours with room for "
            "some KiB. Make room and call bertcls.write_card; the model beside it is whole."
        ) from error
    return path
