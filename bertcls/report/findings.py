"""What a table of predictions tells beyond its scores: simple baselines, calibration, slices and errors."""

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from scipy.special import expit, logit

from bertcls.data.labels import label_array, label_names_of
from bertcls.data.splits import draw_rows
from bertcls.inference import TextClassifier, reaches, texts_of
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import warn
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.report.formats import format_p, format_value
from bertcls.report.slices import confident_errors, confused_pairs, slice_scores, slices_of
from bertcls.report.statistics import calibration, coverage, mcnemar, paired_permutation, score_with_interval
from bertcls.tokenization import count_windows

_MEASURES = {  # of a row, of which baselines and slices show the mean
    SINGLE_LABEL: "accuracy",
    MULTI_LABEL: "share of texts with exactly the right labels",
    REGRESSION: "mean absolute error",
}
_TFIDF_ROWS = 100_000  # of train at most, shared among the labels that have a regression each: beyond it takes minutes
_TFIDF_FEWEST_ROWS = 2_000


def gather_findings(
    classifier: TextClassifier, splits: DatasetDict, table: pd.DataFrame, texts: list[str], tokens: list[int]
) -> dict:
    """Where the classifier stands beside simple models, and where it fails.

    Args:
        classifier: that made the predictions.
        splits: train, validation and test with raw `text` and `label`.
        table: predictions of test, as in `report/predictions.parquet`.
        texts: of test, cleaned.
        tokens: of each of them.

    Returns:
        `measure` (its name), `baselines`, `slices` and `errors`; `calibration` and `confusions` of classes.
    """
    config, names = classifier.model.config, label_names_of(splits["test"])
    kind, labels = config.problem_type, label_array(splits["test"])
    fits = len(names) if kind == MULTI_LABEL else 1
    train = draw_rows(splits["train"], max(_TFIDF_ROWS // fits, _TFIDF_FEWEST_ROWS), seed=0)
    if kind == REGRESSION:
        values = np.abs(table["prediction"].to_numpy() - labels)
    else:
        probabilities = table[[f"probability_{name}" for name in names]].to_numpy()
        values = _right(probabilities, labels, config.thresholds)
    baselines = [_constant(label_array(splits["train"]), labels, names, kind)]
    try:
        tfidf = TfidfClassifier(len(names), problem_type=kind, cleaning=config.cleaning)
        tfidf.fit(texts_of(train), label_array(train))
    except ValueError as error:
        warn(f"No TF-IDF beside the encoder: {error}")
        tfidf = None
    else:
        cut = f" ({len(train):,} of {len(splits['train']):,} rows)" if len(train) < len(splits["train"]) else ""
        what = "ridge" if kind == REGRESSION else "logistic"
        baselines.append((f"TF-IDF with {what} regression{cut}", _tfidf_values(tfidf, splits, labels)))
    one_window = config.truncation != "none" or config.pair_truncation is not None
    windows = [
        1 if one_window else count_windows(n, max_length=config.max_length, overlap=config.overlap) for n in tokens
    ]
    train_texts = cleaned_texts(texts_of(splits["train"]), config.cleaning)
    found = {
        "measure": _MEASURES[kind],
        "baselines": [_beside(name, other, values) for name, other in baselines],
        "slices": slice_scores(values, slices_of(texts, tokens, windows, train_texts)),
        "errors": confident_errors(table, classifier, tfidf, _shown(train)),
    }
    if kind != REGRESSION:
        found["confusions"] = confused_pairs(table)
        found["calibration"] = _calibration(probabilities, labels, kind, config.temperature)
    return found


def _beside(name: str, simple: np.ndarray, values: np.ndarray) -> dict:
    """A simple model beside the encoder on the same rows.

    Args:
        name: of the simple model.
        simple: its value of each row: right or not (bool), or how far off.
        values: those of the encoder.

    Returns:
        `name`, `score` with its interval `low` to `high`, `p_value` (McNemar's exact test, or a permutation of pairs)
        and `beaten`: whether the encoder is better beyond noise.
    """
    p_value = mcnemar(simple, values) if values.dtype == bool else paired_permutation(simple, values)
    better = values.mean() > simple.mean() if values.dtype == bool else values.mean() < simple.mean()
    return {
        "name": name,
        **score_with_interval(simple),
        "p_value": p_value,
        "beaten": bool(better and p_value < 0.05),
    }


def headline(score: float, findings: dict) -> str:
    """Whether the encoder is worth its cost: the first line of the report.

    >>> row = {"name": "TF-IDF", "score": 0.89, "p_value": 0.4, "beaten": False}
    >>> headline(0.9, {"measure": "accuracy", "baselines": [row]})
    'Warning: the encoder (accuracy 0.9000) does not beat TF-IDF (0.8900, p = 0.40) beyond noise.'
    """
    encoder = f"the encoder ({findings['measure']} {score:.4f})"
    unbeaten = [row for row in findings["baselines"] if not row["beaten"]]
    if not unbeaten:
        others = " and ".join(f"{row['name']} ({row['score']:.4f})" for row in findings["baselines"])
        return f"{encoder[0].upper()}{encoder[1:]} beats {others} beyond noise."
    others = " and ".join(
        f"{row['name']} ({row['score']:.4f}, p {format_p(row['p_value'], '= ')})" for row in unbeaten
    )
    return f"Warning: {encoder} does not beat {others} beyond noise."


def _right(probabilities: np.ndarray, labels: np.ndarray, thresholds: list[float] | None) -> np.ndarray:
    """Whether each row is right; of several labels, whether all of them are."""
    if labels.ndim == 1:
        return probabilities.argmax(-1) == labels
    return (reaches(probabilities, thresholds) == labels).all(-1)


def _tfidf_values(tfidf: TfidfClassifier, splits: DatasetDict, labels: np.ndarray) -> np.ndarray:
    """Its value of each row of test; of several labels with thresholds tuned on validation, as the encoder has."""
    probabilities = tfidf.probabilities(texts_of(splits["test"]))
    if tfidf.problem_type == REGRESSION:
        return np.abs(probabilities[:, 0] - labels)
    tfidf.tune(texts_of(splits["validation"]), label_array(splits["validation"]))
    return _right(probabilities, labels, tfidf.thresholds)


def _constant(train: np.ndarray, labels: np.ndarray, names: list[str], kind: str) -> tuple[str, np.ndarray]:
    """The answer that is best without reading a text: its name, and its value of each row."""
    if kind == REGRESSION:
        return f"always answering {format_value(float(np.median(train)))}, the median", np.abs(
            labels - np.median(train)
        )
    answers, counts = np.unique(train, axis=0, return_counts=True)
    answer = answers[counts.argmax()]
    if kind == SINGLE_LABEL:
        return f"always answering {names[answer]}", labels == answer
    given = ", ".join(names[number] for number in np.flatnonzero(answer)) or "no label"
    return f"always answering {given}", (labels == answer).all(-1)


def _calibration(probabilities: np.ndarray, labels: np.ndarray, kind: str, temperature: float) -> dict:
    """Of the most probable class; of several labels, of every decision on a label."""
    if kind == MULTI_LABEL:
        raw, truth = expit(temperature * logit(probabilities)), labels == 1  # raw: as without the temperature
        error, bins = calibration(probabilities.ravel(), truth.ravel())
        return {
            "temperature": temperature,
            "ece_before": calibration(raw.ravel(), truth.ravel())[0],
            "ece": error,
            "bins": bins,
        }
    raw = probabilities**temperature  # as without it, up to a factor
    right = probabilities.argmax(-1) == labels
    error, bins = calibration(probabilities.max(-1), right)
    return {
        "temperature": temperature,
        "ece_before": calibration((raw / raw.sum(-1, keepdims=True)).max(-1), right)[0],
        "ece": error,
        "bins": bins,
        "coverage": coverage(probabilities.max(-1), right),
    }


def _shown(train: Dataset) -> pd.DataFrame:
    """`text`, of a pair both in one, and `label` as people read it."""
    names, labels = label_names_of(train), train["label"][:]
    texts = ["\n".join(text) if isinstance(text, tuple) else text for text in texts_of(train)]
    if labels and isinstance(labels[0], list):
        labels = [[names[number] for number in row] for row in labels]
    elif labels and isinstance(labels[0], int):
        labels = [names[number] for number in labels]
    return pd.DataFrame({"text": texts, "label": labels})
