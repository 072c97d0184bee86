"""The model card of a run: what the model is, how good, how it was made, and how to use it."""

import html
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from huggingface_hub import EvalResult, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import ChainableUndefined
from markupsafe import Markup

from bertcls.data.tables import file_format
from bertcls.layout import CARD
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import whole_file
from bertcls.report.formats import ERRORS, MANY_CLASSES, SCORES, UNSURE, WORSE, format_score
from bertcls.report.page import facts_filters, load_template, shown_facts

_KINDS = {
    SINGLE_LABEL: "gives a text one of {} labels",
    MULTI_LABEL: "gives a text any number of {} labels",
    REGRESSION: "gives a text a number, its {1}",
}
_PLACEHOLDERS = {  # in the language of the data, which is not shown itself: a text, and a second one
    "en": ("A text.", "Another text."),
    "zh": ("一段文本。", "另一段文本。"),
    "ja": ("これは文です。", "これは別の文です。"),
    "de": ("Ein Text.", "Ein anderer Text."),
    "fr": ("Un texte.", "Un autre texte."),
    "es": ("Un texto.", "Otro texto."),
}
# What the card shows of the facts; the others hold texts of the data
_SHOWN = """task headline scores chosen source model arguments run audit baselines calibration slices measure stock
    distilled""".split()
_FEW_ROWS = 30  # of a label: its own score says little
_TOKEN = re.compile(r"\bhf_\w{6,}")
_PATH = re.compile(r"(?<![\w./:~-])~?(?:/[^\s/'\"`|,;()]+){2,}/?|\b[A-Za-z]:\\[^\s'\"`|,;()]+")
_WHOLE_PATH = re.compile(r"(?:~?/|\.\.?/|[A-Za-z]:[\\/])(?:(?!\s[-~/])[^\n\t])*")  # no command line


def write_card(facts: dict, run_dir: str, *, language: str | None = None, license: str | None = None) -> Path:
    """Writes the model card, `README.md`, from the content of `metrics.json`; what is missing there is left out.

    It holds no text of the data, token or local path. Its snippets name the folder, for which `push_folder` puts in
    the repository's name. Language and licence are written as the Hub writes them.
    """
    name, given = Path(run_dir).resolve().name, shown_facts(facts)
    data, hub_encoder = data_name(given["source"], run_dir), _hub_id(given["model"].get("encoder"))
    hub_dataset = _hub_id(given["source"].get("dataset"), owner=True)
    facts = shown_facts({name: _public(facts[name], run_dir) for name in _SHOWN if name in facts})
    facts["task"]["labels"] = given["task"]["labels"]  # which may look like paths
    task, kind, scores, source = facts["task"], facts["kind"], facts["scores"], facts["source"]
    from_scratch = facts["arguments"].get("from_scratch", False)
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=hub_dataset or data,
            dataset_name=data,
            dataset_config=source.get("config"),
            dataset_split=None if facts["drawn"] or facts["folded"] else task["reported_split"],
            dataset_revision=source.get("revision"),
            metric_type=SCORES.get(score, (score, score))[1],
            metric_name=called,
            metric_value=float(scores[f"test_{score}"]),
        )
        for score, called in facts["names"].items()
        if f"test_{score}" in scores
    ]
    metadata = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["bertcls", kind.replace("_", "-")],
        base_model=None if from_scratch else hub_encoder,
        datasets=None if hub_dataset is None else [hub_dataset],
        model_name=name,
        eval_results=results,
    )
    options = {"autoescape": False, "undefined": ChainableUndefined, "finalize": _escaped}
    text = load_template("card.md.jinja", facts_filters(facts), **options).render(
        facts,
        name=name,
        does=_KINDS[kind].format(len(task["labels"]), task.get("label_column") or "value"),
        data=data,
        from_scratch=from_scratch,
        placeholder=_PLACEHOLDERS.get((language or "en").split("-")[0].lower(), _PLACEHOLDERS["en"]),
        pairs=facts["model"].get("contract", {}).get("pair_truncation") is not None,
        most=MANY_CLASSES,
        score_rows=_score_rows(facts),
        limits=_limits(facts, data, from_scratch),
    )
    card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}")  # which parses the metadata
    path = Path(run_dir, CARD)
    try:
        with whole_file(path) as draft:
            draft.write_text(str(card), encoding="utf-8")
    except OSError as error:
        raise type(error)(
            f"The model card cannot be written to {path} ({error.strerror}); expected a folder of yours with room for "
            "some KiB. Make room and call write_card of bertcls.report.card; the model beside it is whole."
        ) from error
    return path


def data_name(source: dict, run_dir: str) -> str:
    """What the data of a run is called: its name or those of its files, without the folders that they lie in."""
    names = [source["dataset"]] if source.get("dataset") else source.get("files") or ["data of its own"]
    return ", ".join(_public([str(name) for name in names], run_dir))


def _escaped(value):
    """A string as it stands in Markdown, whatever is in it; what the template calls safe is left alone.

    >>> _escaped("my_run, _a|b_ <b>*c*</b>\\n# www.x.y")
    'my_run, \\\\_a\\\\|b\\\\_ &lt;b&gt;\\\\*c\\\\*&lt;/b&gt; # www&#46;x.y'
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = html.escape(" ".join(value.splitlines()), quote=False)
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}&#46;", text.replace("://", ":&#47;/"))


def _hub_id(name: str | None, *, owner: bool = False) -> str | None:
    """A name where it is one of the Hub: well formed, and nothing that lies here; with `owner` also `owner/name`."""
    if name is None or os.path.exists(os.path.expanduser(name)) or file_format(name) or owner and "/" not in name:
        return None
    with suppress(HFValidationError):
        validate_repo_id(name)
        return name


def _public(value, run_dir: str):
    """A value of the facts without tokens, and with local paths cut to their last part.

    >>> _public("python /home/me/run.py --token hf_abcdefgh --data ~/my/data", "runs/sst2")
    'python run.py --token *** --data data'
    >>> _public(["google-bert/bert-base-uncased", "C:\\\\my data\\\\x.csv"], "runs/sst2")
    ['google-bert/bert-base-uncased', 'x.csv']
    """
    if isinstance(value, dict):
        return {name: _public(part, run_dir) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_public(part, run_dir) for part in value]
    if not isinstance(value, str):
        return value
    text = _TOKEN.sub("***", value)
    if token := get_token():
        text = text.replace(token, "***")
    if ("/" in text or "\\" in text) and (_WHOLE_PATH.fullmatch(text) or os.path.exists(text)):
        return _last_part(text)
    text = _PATH.sub(lambda found: _last_part(found[0]), text)
    places = [Path(run_dir).resolve(), run_dir, Path.home(), Path(tempfile.gettempdir()), Path.cwd()]
    for place in sorted(map(str, places), key=len, reverse=True):
        if len(Path(place).parts) > 1:
            text = text.replace(f"{place}{os.sep}", "").replace(place, _last_part(place))
    return text


def _last_part(path: str) -> str:
    return PureWindowsPath(path).name or "."  # which knows both kinds of slashes


def _score_rows(facts: dict) -> list[tuple[str, str, str, str]]:
    """Which rows, which score, its value, and its 95 % interval where there is one."""
    rows, scores, selection = [], facts["scores"], facts["task"]["rows"].get("validation")
    before = [("before", "selection, before training")] if facts["chosen"].get("made", 1) else []
    for prefix, which in (("test", "reported"), ("eval", "selection"), *before):
        counted = scores.get("test_samples") if prefix == "test" else selection
        for score, name in facts["names"].items():
            found = [scores.get(f"{prefix}_{score}{end}") for end in ("", "_low", "_high")]
            if found := [one for one in found if one is not None]:
                value, *ends = (format_score(one, counted, error=score in ERRORS) for one in found)
                rows.append((which, name, value, " to ".join(ends)))
    return rows


def _limits(facts: dict, data: str, from_scratch: bool) -> list[str]:
    """What this model was not shown to do, in sentences made from the facts."""
    task, scores, model, found = facts["task"], facts["scores"], facts["model"], []
    main, error = "pearson" if facts["kind"] == REGRESSION else "accuracy", facts["kind"] == REGRESSION
    tested, trained = scores.get("test_samples"), scores.get("train_samples")
    if tested and trained:
        tests = "models of other folds, trained alike, were tested on the same" if facts["folded"] else "tested on"
        found.append(
            f"It was trained on {trained:,} rows and {tests} {tested:,} rows of {data}. Texts of another kind, time "
            "or language were not tried."
        )
    if tested and scores.get(f"test_{main}_low") is not None:
        ends = " and ".join(format_score(scores[f"test_{main}_{end}"], tested) for end in ("low", "high"))
        measured = f"its {facts['names'][main]} on rows of this kind"
        found.append(f"{tested:,} rows leave {measured} between {ends} (95 % interval).")
    for kind, said in ((WORSE, "On these rows it is worse than {}."), (UNSURE, "These rows cannot tell it from {}.")):
        if others := [row["name"] for row in facts["baselines"] if row["outcome"] == kind]:
            found.append(said.format(" and ".join(others)))
    if not facts["baselines"]:
        found.append("It was not compared with a simple model.")
    rows = {label: round(share * (tested or 0)) for label, share in task["label_shares"].get("test", {}).items()}
    if few := [f"{label} ({count})" for label, count in rows.items() if tested and count < _FEW_ROWS]:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        found.append(f"Labels with few tested rows, whose own scores say little: {', '.join(few[:10])}{more}.")
    if weak := [row for row in facts["slices"] if row["outcome"] == WORSE]:
        values = (f"{format_score(row['score'], tested, error=error)} of {row['rows']:,}" for row in weak)
        groups = "; ".join(f"{row['slice']}, {row['group']}: {value}" for row, value in zip(weak, values))
        found.append(f"Its {facts['measure']} is worse on some groups of rows than on the others: {groups}.")
    if facts["calibration"].get("temperature", 1.0) != 1.0:
        found.append(
            "Its probabilities are calibrated on held-out rows of this data alone; on other texts it may be surer "
            "than it is right."
        )
    elif not error:
        found.append("Its probabilities are not calibrated: of answers at 0.9 more or fewer than 9 in 10 are right.")
    found += _reading_limits(model.get("contract", {}))
    if facts.get("audit") is None:
        found.append("Its data was not looked through for duplicates and for test texts in train.")
    elif facts["audit"].get("leaked"):
        found.append("The audit found texts of one split in another (see Data), which can raise the score.")
    if from_scratch:
        found.append("Its encoder was not pretrained: it knows no words beyond those of its training rows.")
    elif encoder := model.get("encoder"):
        found.append(f"What {encoder} learnt from its own texts, prejudice included, is in this model, too.")
    return found


def _reading_limits(contract: dict) -> list[str]:
    """What of a long text or pair is not read, or not seen as a whole."""
    length, pair_cut = contract.get("max_length"), contract.get("pair_truncation")
    what, how = ("text", contract.get("truncation", "none")) if pair_cut is None else ("pair", pair_cut)
    if not length:
        return []
    if how != "none":
        return [f"A {what} longer than {length} tokens is cut ({how}): the rest is not read."]
    cut = "" if pair_cut is None else ", each behind its first text, which is cut to half of one"
    return [
        f"A {what} longer than {length} tokens is read in windows{cut}; no part that spans two is seen as a whole."
    ]
