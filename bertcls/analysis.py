"""Where a classifier fails: slices, confused pairs, confident errors and probes, all from a table of predictions."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from bertcls.baseline import TfidfClassifier
from bertcls.inference import TextClassifier
from bertcls.metrics import wilson_interval
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


def slice_scores(right: np.ndarray, groups: dict[str, pd.Categorical]) -> list[dict]:
    """Accuracy of every group of every slice, and whether it differs from that of the other rows beyond noise.

    Args:
        right: `[rows]`, whether the prediction is.
        groups: for each slice a group name for each row; the categories are in the order to be shown.

    Returns:
        `slice`, `group`, `rows`, `accuracy`, its 95 % interval `low` to `high`, and `differs`: Fisher's exact test
        against the rest at 5 % over all groups together (Bonferroni).
    """
    rows = []
    groups = {slice_name: names.remove_unused_categories() for slice_name, names in groups.items()}
    tests = sum(len(names.categories) for names in groups.values())
    for slice_name, names in groups.items():
        for group in names.categories:
            inside = np.asarray(names == group)
            hits, size = int(right[inside].sum()), int(inside.sum())
            rest_hits, rest = int(right[~inside].sum()), int((~inside).sum())
            low, high = wilson_interval(hits, size)
            p_value = fisher_exact([[hits, size - hits], [rest_hits, rest - rest_hits]]).pvalue if rest else 1.0
            rows.append(
                {
                    "slice": slice_name,
                    "group": group,
                    "rows": size,
                    "accuracy": hits / size,
                    "low": low,
                    "high": high,
                    "differs": bool(p_value < 0.05 / tests),
                }
            )
    return rows


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
    """
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    place, names = np.searchsorted(edges, values), []
    numbers, place = np.unique(place, return_inverse=True)
    for number in range(len(numbers)):
        low, high = (f"{value:.3g}" for value in (values[place == number].min(), values[place == number].max()))
        names.append(f"{low} {unit}" if low == high else f"{low} to {high} {unit}")
    return pd.Categorical([names[number] for number in place], list(dict.fromkeys(names)))


def confused_pairs(table: pd.DataFrame, count: int = 10) -> list[dict]:
    """The most frequent wrong predictions: `label`, `prediction`, `rows`, and their `share` of the label's rows."""
    wrong = table[table["label"] != table["prediction"]]
    sizes = table["label"].value_counts()
    pairs = wrong.groupby(["label", "prediction"]).size().sort_values(ascending=False, kind="stable").head(count)
    return [
        {"label": label, "prediction": prediction, "rows": int(rows), "share": float(rows / sizes[label])}
        for (label, prediction), rows in pairs.items()
    ]


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
        train: `text` (of a pair both) and `label` (a name).
        count: errors.

    Returns:
        `example_id`, `text` (of a pair with the second behind a line), `label`, `prediction`, `probability` of it,
        `pieces` (the first 80 tokens), all `probabilities`, and the `similar` training texts with their labels.
    """
    columns = [name for name in table.columns if name.startswith("probability_")]
    wrong = table[table["label"] != table["prediction"]]
    confidence = wrong[columns].max(axis=1)
    wrong = wrong.loc[confidence.sort_values(ascending=False, kind="stable").index[:count]]
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
                "label": row["label"],
                "prediction": row["prediction"],
                "probability": float(row[columns].max()),
                "pieces": classifier.tokenizer.tokenize(" ".join(cleaned))[:_SHOWN_PIECES],
                "probabilities": {name.removeprefix("probability_"): float(row[name]) for name in columns},
                "similar": [
                    {"text": train["text"].iloc[number], "label": train["label"].iloc[number], "similarity": cosine}
                    for number, cosine in similar
                ],
            }
        )
    return errors


def run_probes(path: str, classifier: TextClassifier) -> list[dict]:
    """Runs the texts of a small file through the model.

    A line is a text, or a label of the model, which one expects, a tab and the text; an empty line begins a new group,
    within which texts should get the same answer; a line that begins with `#` is a comment.

    Returns:
        `group`, `text`, `prediction`, `probability` and `expected` (a label or `None`).

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
        probe |= {"prediction": answer.label, "probability": answer.score}
    return probes
