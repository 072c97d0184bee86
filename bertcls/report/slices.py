"""Where a classifier fails: slices, confused pairs, confident errors and probes, from a table of predictions."""

import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.stats import fisher_exact, ttest_ind

from bertcls.data.labels import label_names_of
from bertcls.inference import TextClassifier, reaches
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.formats import outcome
from bertcls.report.scores import row_values
from bertcls.report.statistics import score_with_interval
from bertcls.text import clean_all, words_of

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|nowhere|hardly|without|cannot|(?:do|does|did|wo|ca|is|was|are|"
    r"were|would|could|should|has|have|had)n[’']?t|dnt)\b|不|没|無|无|别|未",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"\b(?:but|however|although|though|yet|despite|nevertheless|nonetheless|except|unfortunately)\b|但|却|然而|不过|虽",
    re.IGNORECASE,
)
_SHOWN_PIECES, _SHOWN_PROBABILITIES = 80, 5  # of an error


def slice_scores(values: np.ndarray, groups: dict[str, pd.Categorical]) -> list[dict]:
    """The mean of every group of every slice (a name for each row), of the `values` that `row_values` gives.

    Each with its 95 % interval, and `outcome`, what the group is beside the other rows: by Fisher's exact test, or
    Welch's, at 5 % over all groups together (Bonferroni).
    """
    rows, sign = [], 1 if values.dtype == bool else -1  # of an error less is better
    groups = {slice_name: names.remove_unused_categories() for slice_name, names in groups.items()}
    level = 0.05 / max(sum(len(names.categories) for names in groups.values()), 1)
    for slice_name, names in groups.items():
        for group in names.categories:
            inside = np.asarray(names == group)
            own, rest = values[inside], values[~inside]
            row = {"slice": slice_name, "group": group, "rows": len(own), **score_with_interval(own)}
            difference = sign * float(own.mean() - values.mean())
            rows.append(row | {"outcome": outcome(difference, _p_value(own, rest), level=level)})
    return rows


def _p_value(own: np.ndarray, rest: np.ndarray) -> float:
    """That two groups of rows differ by chance; 1 where there is too little to tell."""
    if own.dtype == bool:
        table = [[part.sum(), len(part) - part.sum()] for part in (own, rest)]
        return float(fisher_exact(table).pvalue) if len(rest) else 1.0
    if min(len(own), len(rest)) < 2 or not (own.std() or rest.std()):
        return 1.0
    return float(ttest_ind(own, rest, equal_var=False).pvalue)


def slices_of(
    texts: list[str], tokens: list[int], windows: list[int], train_texts: list[str]
) -> dict[str, pd.Categorical]:
    """Groups for `slice_scores`, of cleaned texts `[rows]`, the tokens and windows of each, and the texts of train."""
    words = [words_of(text) for text in texts]
    lengths = np.array([len(row) for row in words])
    known = set().union(*map(words_of, train_texts))
    unseen = np.array([sum(word not in known for word in row) for row in words])
    found = {
        "words": _quartiles(lengths, "words"),
        "word pieces a word": _quartiles(np.array(tokens) / np.maximum(lengths, 1), "pieces a word"),
        "negation": _named([bool(_NEGATION.search(text)) for text in texts], "without negation", "with negation"),
        "contrast": _named(
            [bool(_CONTRAST.search(text)) for text in texts], "without a contrast word", "with a contrast word"
        ),
        "words that train does not have": _named(np.minimum(unseen, 2), "none", "one", "two or more"),
        "windows": _named(np.digitize(windows, [2, 5]), "one", "2 to 4", "5 and more"),
    }
    return {name: groups for name, groups in found.items() if len(groups.unique()) > 1}


def _named(numbers: np.ndarray | list[bool], *names: str) -> pd.Categorical:
    return pd.Categorical.from_codes(np.asarray(numbers, dtype=int), names)


def _quartiles(values: np.ndarray, unit: str) -> pd.Categorical:
    """A name such as `3 to 4 words` for each value, of up to four groups of like size.

    >>> list(_quartiles(np.array([0.125, 1.0625, 1040, 1041]), "pieces a word").categories)
    ['0.125 pieces a word', '1.06 pieces a word', '1,040 pieces a word', '1,041 pieces a word']
    """
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    numbers, place = np.unique(np.searchsorted(edges, values), return_inverse=True)
    names = []
    for number in range(len(numbers)):
        inside = values[place == number]
        low, high = (f"{end:,.0f}" if end >= 100 else f"{end:.3g}" for end in (inside.min(), inside.max()))
        names.append(f"{low} {unit}" if low == high else f"{low} to {high} {unit}")
    return pd.Categorical([names[number] for number in place], list(dict.fromkeys(names)))


def confused_pairs(table: pd.DataFrame, count: int = 10) -> list[dict]:
    """The most frequent wrong predictions: `label`, `prediction`, `rows`, and their `share` of the label's rows.

    Of several labels one that was missed beside one given without right in the same text; `None` where there is no
    such one. The share of what was given where nothing was missed is that of all rows.
    """
    wrong, sizes = Counter(), Counter()
    for row in zip(table["label"], table["prediction"]):
        label, prediction = ({names} if isinstance(names, str) else {*names} for names in row)
        sizes.update(label)
        if label != prediction:
            wrong.update(product(label - prediction or {None}, prediction - label or {None}))
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], str(item[0])))
    return [
        {"label": label, "prediction": prediction, "rows": rows, "share": rows / (sizes[label] or len(table))}
        for (label, prediction), rows in ranked[:count]
    ]


def sure_errors(table: pd.DataFrame, thresholds: list[float] | None = None) -> pd.DataFrame:
    """The wrong rows of a table of predictions, the surest first, with columns that say how sure.

    `probability` is that of the wrong class, or of the wrong decision that is furthest from its label, which
    `decision` names; `None` of a regression, whose rows are those furthest off.
    """
    names, values = class_names(table), row_values(table)
    wrong = table[~values if names else values > 0]
    probabilities = wrong[[f"probability_{name}" for name in names]].to_numpy()
    if not names:
        wrong, sure = wrong.assign(probability=None), values[values > 0]
    elif isinstance(table["label"].iloc[0], str):
        sure = probabilities.max(-1, initial=0)
        wrong = wrong.assign(probability=sure)
    else:
        has = np.array([[name in label for name in names] for label in wrong["label"]]).reshape(-1, len(names))
        off = np.where(reaches(probabilities, thresholds) != has, np.abs(probabilities - has), -1.0)
        place, sure = off.argmax(-1), off.max(-1)
        chosen = probabilities[np.arange(len(wrong)), place]
        wrong = wrong.assign(probability=chosen, decision=[names[number] for number in place])
    return wrong.iloc[np.argsort(-sure, kind="stable")]


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes of a table of predictions, in order; none of a regression."""
    return [name.removeprefix("probability_") for name in table if name.startswith("probability_")]


def confident_errors(
    table: pd.DataFrame, classifier: TextClassifier, baseline: TfidfClassifier | None, train: Dataset, count: int = 20
) -> list[dict]:
    """The errors that the model is surest of, which is where wrong labels are found, with what may explain them.

    Each has columns of `sure_errors` (the text of a pair with the second behind a line), `pieces` (the first 80
    tokens), the 5 highest `probabilities`, and the `similar` rows of `train`, which the baseline learned from.
    """
    config, names = classifier.model.config, class_names(table)
    wrong = sure_errors(table, config.thresholds).head(count)
    texts = list(zip(*(wrong[name] for name in ("text", "text_pair") if name in wrong)))
    joined = ["\n".join(parts) for parts in texts]
    neighbours = baseline.similar(joined) if baseline is not None and texts else [[]] * len(texts)
    errors = []
    for row, parts, text, similar in zip(wrong.to_dict("records"), texts, joined, neighbours):
        pieces = classifier.tokenizer.tokenize(" ".join(clean_all(parts, config.cleaning)))[:_SHOWN_PIECES]
        known = ("example_id", "label", "prediction", "probability", "decision")
        error = {key: _plain(row[key]) for key in known if key in row}
        error |= {"text": text, "pieces": pieces}
        probabilities = sorted(((row[f"probability_{name}"], name) for name in names), reverse=True)
        error["probabilities"] = {name: probability for probability, name in probabilities[:_SHOWN_PROBABILITIES]}
        others = [pair for pair in similar if train[pair[0]]["example_id"] != row["example_id"]]  # as with folds
        error["similar"] = [_shown(train, number) | {"similarity": cosine} for number, cosine in others]
        errors.append(error)
    return errors


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


def _shown(train: Dataset, number: int) -> dict:
    """`text`, of a pair both in one, and `label` of a row as people read it."""
    row, names = train[number], label_names_of(train)
    label, parts = row["label"], [row[name] for name in ("text", "text_pair") if name in row]
    if isinstance(label, list):
        label = [names[number] for number in label]
    return {"text": "\n".join(parts), "label": names[label] if isinstance(label, int) else label}


def run_probes(path: str, classifier: TextClassifier) -> list[dict]:
    """Runs the texts of a small file through the model.

    A line is a text, or a label of the model, which one expects, a tab and the text; an empty line begins a new group,
    within which texts should get the same answer; a line that begins with `#` is a comment.

    Raises:
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No probes found at {path}; expected a text file with a text a line. Check --probes.")
    group, probes, fresh = 0, [], True
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.strip():
            fresh = True
        elif not line.startswith("#"):
            group, fresh = group + fresh, False
            expected, tab, text = line.partition("\t")
            if not tab or expected not in classifier.label_names:
                expected, text = None, line
            probes.append({"group": group, "text": text, "expected": expected})
    for probe, answer in zip(probes, classifier.predict([probe["text"] for probe in probes])):
        given = answer.label if isinstance(answer.label, tuple) else (answer.label,)
        right = None if probe["expected"] is None else probe["expected"] in given
        probe |= {"prediction": answer.label, "probability": answer.score, "right": right}
    return probes
