"""What a table of predictions tells beyond its scores: simple baselines, calibration, slices and errors."""

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from scipy.special import expit, logit

from bertcls.data.labels import label_array, label_names_of
from bertcls.data.splits import draw_rows
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import warn
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.report.formats import BETTER, MEASURES, UNSURE, WORSE, format_p, format_score, format_value, outcome
from bertcls.report.scores import predict_rows, row_values
from bertcls.report.slices import confident_errors, confused_pairs, slice_scores, slices_of
from bertcls.report.statistics import accuracy_by_coverage, calibration_error, paired_p_value, score_with_interval

_TFIDF_ROWS = 100_000  # of train at most, shared among the labels that have a regression each: beyond it takes minutes
_TFIDF_FEWEST_ROWS = 2_000
_UNTRAINED_ROWS = 2_000  # of the reported ones, that the encoder as it came answers


def gather_findings(
    classifier: TextClassifier,
    splits: DatasetDict,
    table: pd.DataFrame,
    texts: list[str],
    tokens: list[int],
    windows: list[int],
    *,
    fold_of: np.ndarray | None = None,
    as_it_came: TextClassifier | None = None,
) -> dict:
    """Where the classifier stands beside simple models, and where it fails.

    From the table of its predictions of test, the cleaned texts of test, and the tokens and windows of each: `measure`
    (its name), `baselines`, `slices` and `errors`; of classes also `confusions` and `calibration`. `fold_of` is the
    fold of each row that was answered out of fold; `as_it_came` is the untrained encoder.
    """
    config, names, train = classifier.model.config, label_names_of(splits["test"]), splits["train"]
    kind, labels, values = config.problem_type, label_array(splits["test"]), row_values(table)
    answer, simple = _constant(label_array(train), labels, names, kind)
    baselines = [_beside(f"always answering {answer}", simple, values)]
    fits = len(names) if kind == MULTI_LABEL else 1
    drawn = draw_rows(train, max(_TFIDF_ROWS // fits, _TFIDF_FEWEST_ROWS), seed=0)
    tfidf = TfidfClassifier(len(names), problem_type=kind, cleaning=config.cleaning)
    try:
        tfidf.fit(texts_of(drawn), label_array(drawn))
        if "validation" in splits:  # as the encoder is
            tfidf.tune(texts_of(splits["validation"]), label_array(splits["validation"]))
    except ValueError as error:
        warn(f"No TF-IDF beside the encoder: {error}")
        tfidf = None
    else:
        cut = f" ({len(drawn):,} of {len(train):,} rows)" if len(drawn) < len(train) else ""
        name = f"TF-IDF with {'ridge' if kind == REGRESSION else 'logistic'} regression{cut}"
        answers = tfidf if fold_of is None else _OutOfFold(tfidf, train, fold_of)
        baselines.append(_beside(name, row_values(predict_rows(answers, splits["test"])[0]), values))
    if as_it_came is not None and fold_of is None:
        rows = np.sort(np.random.default_rng(0).permutation(len(values))[:_UNTRAINED_ROWS])
        cut = f" ({len(rows):,} of {len(values):,} rows)" if len(rows) < len(values) else ""
        plain = row_values(predict_rows(as_it_came, splits["test"].select(rows))[0])
        baselines.append(_beside(f"the encoder as it came, with a linear head{cut}", plain, values[rows]))
    slices = slices_of(texts, tokens, windows, cleaned_texts(texts_of(train), config.cleaning))
    found = {
        "measure": MEASURES[kind],
        "baselines": baselines,
        "slices": slice_scores(values, slices),
        "errors": confident_errors(table, classifier, tfidf, drawn),
    }
    if kind != REGRESSION:
        found["confusions"] = confused_pairs(table)
        probabilities = table[[f"probability_{name}" for name in names]].to_numpy()
        found["calibration"] = _calibration(probabilities, labels, config.temperature)
    return found


@dataclass
class _OutOfFold:
    """Answers of a simple model for rows, each by a copy that was fitted on the rows of the other folds."""

    tfidf: TfidfClassifier
    rows: Dataset
    fold_of: np.ndarray  # [rows]
    thresholds = None

    def probabilities(self, texts: list[Text], *, progress: bool = False) -> np.ndarray:
        labels, found = label_array(self.rows), np.zeros((len(texts), self.tfidf.num_labels))
        for number in np.unique(self.fold_of):
            held = self.fold_of == number
            fitted = copy.deepcopy(self.tfidf).fit([text for text, out in zip(texts, held) if not out], labels[~held])
            found[held] = fitted.probabilities([text for text, out in zip(texts, held) if out])
        return found


def _beside(name: str, simple: np.ndarray, values: np.ndarray) -> dict:
    """A simple model beside the encoder, by what `row_values` gives of both.

    Its `score` with its interval `low` to `high`, `p_value`, and `outcome`: what the encoder is, better or worse.
    """
    p_value, difference = paired_p_value(simple, values), float(values.mean() - simple.mean())
    difference = difference if values.dtype == bool else -difference  # of an error less is better
    found = {"p_value": p_value, "outcome": outcome(difference, p_value)}
    return {"name": name} | score_with_interval(simple) | found


def headline(score: float, findings: dict, rows: int | None = None) -> str:
    """Whether the encoder is worth its cost: the first line of the report.

    >>> row = {"name": "TF-IDF", "score": 0.89, "p_value": 0.4, "outcome": "cannot tell"}
    >>> headline(0.9, {"measure": "accuracy", "baselines": [row]}, 198)
    'The encoder (accuracy 0.90) cannot be told from TF-IDF (0.89, p = 0.40).'
    """
    error, clauses = findings["measure"] == MEASURES[REGRESSION], []
    for kind, verb in ((WORSE, "is worse than"), (UNSURE, "cannot be told from"), (BETTER, "is better than")):
        others = [
            f"{row['name']} ({format_score(row['score'], rows, error=error)}, p {format_p(row['p_value'], '= ')})"
            for row in findings["baselines"]
            if row["outcome"] == kind
        ]
        clauses += [f"{verb} {' and '.join(others)}"] if others else []
    start = "Warning: the" if any(row["outcome"] == WORSE for row in findings["baselines"]) else "The"
    written = format_score(score, rows, error=error)
    return f"{start} encoder ({findings['measure']} {written}) {' and '.join(clauses)}."


def _constant(train: np.ndarray, labels: np.ndarray, names: list[str], kind: str) -> tuple[str, np.ndarray]:
    """The answer that is best without reading a text, in words, and its value of each row of test."""
    if kind == REGRESSION:
        median = float(np.median(train))
        return f"{format_value(median)}, the median", np.abs(labels - median)
    answers, counts = np.unique(train, axis=0, return_counts=True)
    answer = answers[counts.argmax()]
    if kind == SINGLE_LABEL:
        return names[answer], labels == answer
    return ", ".join(names[number] for number in np.flatnonzero(answer)) or "no label", (labels == answer).all(-1)


def _calibration(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """Of the most probable class; of several labels, of every decision on a label."""
    several = labels.ndim == 2
    lowest = 0.0 if several else 1 / probabilities.shape[1]  # that the probability of the predicted class can be
    if several:
        confidence, right = probabilities.ravel(), labels.ravel() == 1
        raw = expit(temperature * logit(confidence))  # as without the temperature
    else:
        confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
        powers = probabilities**temperature  # as without it, up to a factor
        raw = powers.max(-1) / powers.sum(-1)
    error, bins = calibration_error(confidence, right)
    bins[0]["low"] = max(bins[0]["low"], lowest)
    found = {"temperature": temperature, "ece_before": calibration_error(raw, right)[0], "ece": error, "bins": bins}
    return found if several else found | {"coverage": accuracy_by_coverage(confidence, right)}
