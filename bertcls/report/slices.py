"""Where a classifier fails: slices, confused pairs, confident errors and probes, from a table of predictions."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact, ttest_ind_from_stats

from bertcls.inference import TextClassifier, reaches
from bertcls.report.baseline import TfidfClassifier
from bertcls.report.statistics import score_with_interval
from bertcls.text import clean, words_of

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|nowhere|hardly|without|cannot|(?:do|does|did|wo|ca|is|was|are|"
    r"were|would|could|should|has|have|had)n[’']?t|dnt)\b|不|没|無|无|别|未",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"\b(?:but|however|although|though|yet|despite|nevertheless|nonetheless|except|unfortunately)\b|但|却|然而|不过|虽",
    re.IGNORECASE,
)
_SHOWN_PIECES = 80  # of an error's text


def slice_scores(values: np.ndarray, groups: dict[str, pd.Categorical]) -> list[dict]:
    """The mean of every group of every slice, and whether it differs from that of the other rows beyond noise.

    Args:
        values: `[rows]`, whether the prediction is right (bool: the mean is an accuracy), or how far off it is.
        groups: for each slice a group name for each row; the categories are in the order to be shown.

    Returns:
        `slice`, `group`, `rows`, `score` (the mean), its 95 % interval `low` to `high`, and `differs`: Fisher's exact
        test, or Welch's, against the rest at 5 % over all groups together (Bonferroni).
    """
    rows = []
    groups = {slice_name: names.remove_unused_categories() for slice_name, names in groups.items()}
    tests = sum(len(names.categories) for names in groups.values())
    for slice_name, names in groups.items():
        for group in names.categories:
            inside = np.asarray(names == group)
            own, rest = values[inside], values[~inside]
            rows.append(
                {
                    "slice": slice_name,
                    "group": group,
                    "rows": len(own),
                    **score_with_interval(own),
                    "differs": bool(_p_value(own, rest) < 0.05 / tests),
                }
            )
    return rows


def _p_value(own: np.ndarray, rest: np.ndarray) -> float:
    """That two groups of rows differ by chance; 1 where there is too little to tell."""
    if own.dtype == bool:
        table = [[part.sum(), len(part) - part.sum()] for part in (own, rest)]
        return float(fisher_exact(table).pvalue) if len(rest) else 1.0
    if min(len(own), len(rest)) < 2 or not (own.std() or rest.std()):
        return 1.0
    sizes = [(part.mean(), part.std(ddof=1), len(part)) for part in (own, rest)]
    return float(ttest_ind_from_stats(*sizes[0], *sizes[1], equal_var=False).pvalue)


def slices_of(
    texts: list[str], tokens: list[int], windows: list[int], train_texts: list[str]
) -> dict[str, pd.Categorical]:
    """Groups for `slice_scores`: length, word pieces a word, negation, contrast, windows and unseen words.

    Args:
        texts: cleaned, `[rows]`.
        tokens: of each text.
        windows: of each text.
        train_texts: cleaned, for the words that training had.
    """
    words = [words_of(text) for text in texts]
    lengths = np.array([len(row) for row in words])
    known: set[str] = set()
    for text in train_texts:
        known.update(words_of(text))
    unseen = np.array([sum(word not in known for word in row) for row in words])
    negated = np.array([bool(_NEGATION.search(text)) for text in texts])
    contrasted = np.array([bool(_CONTRAST.search(text)) for text in texts])
    counts = np.array(windows)
    found = {
        "words": _quartiles(lengths, "words"),
        "word pieces a word": _quartiles(np.array(tokens) / np.maximum(lengths, 1), "pieces a word"),
        "negation": _named(negated, ["without negation", "with negation"]),
        "contrast": _named(contrasted, ["without a contrast word", "with a contrast word"]),
        "words that train does not have": _named(np.minimum(unseen, 2), ["none", "one", "two or more"]),
        "windows": _named(np.digitize(counts, [2, 5]), ["one", "2 to 4", "5 and more"]),
    }
    return {name: groups for name, groups in found.items() if len(groups.unique()) > 1}


def _named(numbers: np.ndarray, names: list[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(numbers.astype(int), names)


def _quartiles(values: np.ndarray, unit: str) -> pd.Categorical:
    """A name such as `3 to 4 words` for each value, of up to four groups of like size.

    >>> list(_quartiles(np.array([8, 7, 6, 5, 4, 3, 2, 1]), "words").categories)
    ['1 to 2 words', '3 to 4 words', '5 to 6 words', '7 to 8 words']
    >>> list(_quartiles(np.array([0.125, 1.0625, 1040, 1041]), "pieces a word").categories)
    ['0.125 pieces a word', '1.06 pieces a word', '1,040 pieces a word', '1,041 pieces a word']
    """
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    place, names = np.searchsorted(edges, values), []
    numbers, place = np.unique(place, return_inverse=True)
    for number in range(len(numbers)):
        ends = (values[place == number].min(), values[place == number].max())
        low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in ends)
        names.append(f"{low} {unit}" if low == high else f"{low} to {high} {unit}")
    return pd.Categorical([names[number] for number in place], list(dict.fromkeys(names)))


def confused_pairs(table: pd.DataFrame, count: int = 10) -> list[dict]:
    """The most frequent wrong predictions: `label`, `prediction`, `rows`, and their `share` of the label's rows.

    Of several labels a text a pair is one that was missed beside one that was given in its text without right; `None`
    stands where there is no such one. The share of what was given where nothing was missed is that of all rows.
    """
    wrong, sizes = Counter(), Counter()
    for label, prediction in zip(map(_as_set, table["label"]), map(_as_set, table["prediction"])):
        sizes.update(label)
        if label != prediction:
            wrong.update((a, b) for a in label - prediction or {None} for b in prediction - label or {None})
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], str(item[0])))
    return [
        {"label": label, "prediction": prediction, "rows": rows, "share": rows / (sizes[label] or len(table))}
        for (label, prediction), rows in ranked[:count]
    ]


def _as_set(label: str | Iterable[str]) -> set[str]:
    return {label} if isinstance(label, str) else set(label)


def sure_errors(table: pd.DataFrame, thresholds: list[float] | None = None) -> pd.DataFrame:
    """The wrong rows of a table of predictions, the surest first, with columns that say how sure.

    Args:
        table: predictions, with `label`, `prediction` and for classes `probability_*`.
        thresholds: of a multi-label model.

    Returns:
        rows with `probability`: of the wrong class; of several labels that of the wrong decision that is furthest from
        its label, which `decision` names; `None` of a regression, whose rows are those furthest off.
    """
    columns = [name for name in table.columns if name.startswith("probability_")]
    if not columns:
        off = (table["label"] - table["prediction"]).abs()
        order = off[off > 0].sort_values(ascending=False, kind="stable").index
        return table.loc[order].assign(probability=None)
    wrong = table[[_as_set(a) != _as_set(b) for a, b in zip(table["label"], table["prediction"])]]
    probabilities, names = wrong[columns].to_numpy(), [name.removeprefix("probability_") for name in columns]
    if isinstance(table["label"].iloc[0], str):
        wrong, sure = wrong.assign(probability=probabilities.max(-1)), probabilities.max(-1)
    else:
        has = np.array([[name in label for name in names] for label in wrong["label"]]).reshape(-1, len(names))
        off = np.where(reaches(probabilities, thresholds) != has, np.abs(probabilities - has), -1.0)
        place = off.argmax(-1)
        chosen = probabilities[np.arange(len(wrong)), place]
        wrong, sure = wrong.assign(probability=chosen, decision=[names[number] for number in place]), off.max(-1)
    return wrong.iloc[np.argsort(-sure, kind="stable")]


def confident_errors(
    table: pd.DataFrame,
    classifier: TextClassifier,
    baseline: TfidfClassifier | None,
    train: pd.DataFrame,
    count: int = 20,
) -> list[dict]:
    """The errors that the model is surest of, which is where wrong labels are found, with what may explain them.

    Args:
        table: predictions, with `text`, perhaps `text_pair`, `label`, `prediction` and `probability_*`.
        classifier: that made them.
        baseline: trained on the rows of `train`; `None` leaves out similar texts.
        train: `text` (of a pair both) and `label` (a name, names or a number).
        count: errors.

    Returns:
        `example_id`, `text` (of a pair with the second behind a line), `label`, `prediction`, `probability` and
        `decision` as in `sure_errors`, `pieces` (the first 80 tokens), all `probabilities`, and the `similar` training
        texts with their labels.
    """
    columns = [name for name in table.columns if name.startswith("probability_")]
    wrong = sure_errors(table, classifier.model.config.thresholds).head(count)
    pairs = "text_pair" in table
    texts = list(zip(wrong["text"], wrong["text_pair"])) if pairs else wrong["text"].tolist()
    neighbours = baseline.similar(texts) if baseline is not None and texts else [[]] * len(texts)
    errors = []
    for (_, row), text, similar in zip(wrong.iterrows(), texts, neighbours):
        cleaned = [clean(part, classifier.model.config.cleaning) for part in (text if pairs else (text,))]
        errors.append(
            {
                "example_id": int(row["example_id"]),
                "text": "\n".join(text) if pairs else text,
                "label": _listed(row["label"]),
                "prediction": _listed(row["prediction"]),
                "probability": None if row["probability"] is None else float(row["probability"]),
                **({"decision": row["decision"]} if "decision" in wrong else {}),
                "pieces": classifier.tokenizer.tokenize(" ".join(cleaned))[:_SHOWN_PIECES],
                "probabilities": {name.removeprefix("probability_"): float(row[name]) for name in columns},
                "similar": [
                    {"text": train["text"].iloc[number], "label": train["label"].iloc[number], "similarity": cosine}
                    for number, cosine in similar
                ],
            }
        )
    return errors


def _listed(label: str | float | Iterable[str]) -> str | float | list[str]:
    return label if isinstance(label, str | float) else list(label)


def run_probes(path: str, classifier: TextClassifier) -> list[dict]:
    """Runs the texts of a small file through the model.

    A line is a text, or a label of the model, which one expects, a tab and the text; an empty line begins a new group,
    within which texts should get the same answer; a line that begins with `#` is a comment.

    Returns:
        `group`, `text`, `prediction`, `probability`, `expected` (a label or `None`) and `right`: whether that is the
        prediction, or one of several labels; `None` where none was expected.

    Raises:
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No probes found at {path}; expected a text file with a text a line. Check --probes.")
    group, probes, fresh = 0, [], True
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            fresh = True
            continue
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
