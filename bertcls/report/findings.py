"""What a table of predictions tells beyond its scores: baselines, calibration, and where the classifier fails."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from scipy.special import expit, logit
from scipy.stats import fisher_exact, ttest_ind

from bertcls.data.columns import text_batches
from bertcls.data.labels import label_array, label_names_of
from bertcls.data.splits import draw_rows
from bertcls.inference import TextClassifier, texts_of
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import warn
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.report.deciding import deciding_words, words_of_texts
from bertcls.report.formats import BETTER, MEASURES, UNSURE, WORSE, format_p, format_score, format_value, outcome
from bertcls.report.scores import answer_table, row_values
from bertcls.report.statistics import accuracy_by_coverage, calibration_error, paired_p_value, score_with_interval
from bertcls.text import clean_all, words_of
from bertcls.words import PASSES

_TFIDF_ROWS = 100_000  # of train at most, shared among the labels that have a regression each: beyond it takes minutes
_TFIDF_FEWEST_ROWS = 2_000
_MOST_BESIDE, _FEWEST_BESIDE = 2_000, 100  # reported rows that the encoder as it came answers
_SHOWN_PAIRS, _SHOWN_ERRORS = 10, 20
_SHOWN_PIECES, _SHOWN_PROBABILITIES = 80, 5  # of an error
_NEGATION = re.compile(
    r"(?i)\b(?:not|no|never|none|nobody|nothing|neither|nor|nowhere|hardly|without|cannot|(?:do|does|did|wo|ca|is|was|"
    r"are|were|would|could|should|has|have|had)n[’']?t|dnt)\b|不|没|無|无|别|未"
)
_CONTRAST = re.compile(
    r"(?i)\b(?:but|however|although|though|yet|despite|nevertheless|nonetheless|except|unfortunately)\b|但|却|然而|不过|虽"
)


class Baseline(Protocol):
    """A simple model: answers for rows `[rows, num_labels]`, of folds `fold_of` `[rows]` by models of other folds."""

    thresholds: list[float] | None

    def probabilities(self, rows: Dataset, fold_of: np.ndarray | None = None) -> np.ndarray: ...


def gather_findings(
    classifier: TextClassifier,
    splits: DatasetDict,
    table: pd.DataFrame,
    tokens: list[int],
    windows: list[int],
    *,
    fold_of: np.ndarray | None = None,
    as_it_came: Baseline | None = None,
    work: int = 40_000,
) -> dict:
    """Where the classifier stands beside simple models, and where it fails.

    From the table of its predictions of test, and the tokens and windows of each text: `measure` (its name),
    `baselines`, `slices` and `errors`; of classes also `confusions` and `calibration`. `fold_of` is the fold of each
    row that was answered out of fold; `as_it_came` is the untrained encoder, which takes 5 % of the run's `work`
    (forward passes of a text), where the words that decide take 20 %.
    """
    config, train, test = classifier.model.config, splits["train"], splits["test"]
    kind, names, labels, values = config.problem_type, label_names_of(test), label_array(test), row_values(table)
    answer, simple = _constant(label_array(train), labels, names, kind)
    baselines = [beside_values(f"always answering {answer}", simple, values)]
    limit = max(_TFIDF_ROWS // (len(names) if kind == MULTI_LABEL else 1), _TFIDF_FEWEST_ROWS)
    drawn = draw_rows(train, limit, seed=0)
    tfidf = TfidfClassifier(len(names), problem_type=kind, cleaning=config.cleaning)
    try:
        tfidf.fit(texts_of(drawn), label_array(drawn))
        if "validation" in splits:  # as the encoder is
            tfidf.tune(texts_of(splits["validation"]), label_array(splits["validation"]))
        answers = tfidf.probabilities(texts_of(test)) if fold_of is None else _out_of_fold(tfidf, test, fold_of, limit)
    except ValueError as error:
        warn(f"No TF-IDF beside the encoder: {error}")
        tfidf = None
    else:
        name = f"TF-IDF with {'ridge' if kind == REGRESSION else 'logistic'} regression{_part(len(drawn), len(train))}"
        baselines.append(beside_values(name, row_values(answer_table(test, answers, tfidf.thresholds)[0]), values))
    if as_it_came is not None:
        most = min(max(work // 20, _FEWEST_BESIDE), _MOST_BESIDE) if fold_of is None else _MOST_BESIDE  # to learn of
        rows = np.sort(np.random.default_rng(0).permutation(len(values))[:most])
        name = f"the encoder as it came, with a linear head{_part(len(rows), len(values))}"
        some = test.select(rows)
        answers = as_it_came.probabilities(some, None if fold_of is None else fold_of[rows])
        plain = answer_table(some, answers, as_it_came.thresholds)[0]
        baselines.append(beside_values(name, row_values(plain), values[rows]))
    texts = cleaned_texts(texts_of(test), config.cleaning)
    known = (text for batch in text_batches(train) for text in cleaned_texts(batch, config.cleaning))
    found = {
        "measure": MEASURES[kind],
        "baselines": baselines,
        "slices": slice_scores(values, slices_of(texts, tokens, windows, known)),
        "errors": confident_errors(table, classifier, tfidf, drawn, words=fold_of is None),
        "deciding": deciding_words(classifier, test, train, tfidf, rows=work // PASSES // 5),
    }
    if kind != REGRESSION:
        found["confusions"] = confused_pairs(table)
        found["calibration"] = _calibration(table.filter(like="probability_").to_numpy(), labels, config.temperature)
    return found


def _part(some: int, rows: int) -> str:
    return f" ({some:,} of {rows:,} rows)" if some < rows else ""


def _out_of_fold(tfidf: TfidfClassifier, rows: Dataset, fold_of: np.ndarray, limit: int) -> np.ndarray:
    """Probabilities of a simple model for rows, each by a copy that was fitted on at most `limit` of other folds."""
    found = np.zeros((len(rows), tfidf.num_labels))
    for number in np.unique(fold_of):
        learned = draw_rows(rows.select(np.flatnonzero(fold_of != number)), limit, seed=0)
        held = np.flatnonzero(fold_of == number)
        fitted = replace(tfidf).fit(texts_of(learned), label_array(learned))
        found[held] = fitted.probabilities(texts_of(rows.select(held)))
    return found


def beside_values(name: str, simple: np.ndarray, values: np.ndarray) -> dict:
    """A simple model beside the encoder, by what `row_values` gives of both.

    Its `score` with its interval `low` to `high`, `p_value`, and `outcome`: what the encoder is, better or worse.
    """
    p_value, difference = paired_p_value(simple, values), float(values.mean() - simple.mean())
    told = outcome(difference if values.dtype == bool else -difference, p_value)  # of an error less is better
    return {"name": name} | score_with_interval(simple) | {"p_value": p_value, "outcome": told}


def headline(score: float, findings: dict, rows: int | None = None) -> str:
    """Whether the encoder is worth its cost: the first line of the report.

    >>> row = {"name": "TF-IDF", "score": 0.89, "p_value": 0.4, "outcome": "cannot tell"}
    >>> headline(0.9, {"measure": "accuracy", "baselines": [row]}, 198)
    'The encoder (accuracy 0.90) cannot be told from TF-IDF (0.89, p = 0.40).'
    """
    clauses, write = [], partial(format_score, rows=rows, error=findings["measure"] == MEASURES[REGRESSION])
    for kind, verb in ((WORSE, "is worse than"), (UNSURE, "cannot be told from"), (BETTER, "is better than")):
        others = [row for row in findings["baselines"] if row["outcome"] == kind]
        told = (f"{row['name']} ({write(row['score'])}, p {format_p(row['p_value'], '= ')})" for row in others)
        clauses += [f"{verb} {' and '.join(told)}"] if others else []
    start = "Warning: the" if clauses[0].startswith("is worse") else "The"
    return f"{start} encoder ({findings['measure']} {write(score)}) {' and '.join(clauses)}."


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
    """Of the most probable class; of several labels, of every decision on a label. `ece_before` is without it."""
    several = labels.ndim == 2
    if several:
        confidence, right = probabilities.ravel(), labels.ravel() == 1
        raw = expit(temperature * logit(confidence))
    else:
        confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
        powers = probabilities**temperature  # as without the temperature, up to a factor
        raw = powers.max(-1) / powers.sum(-1)
    error, bins = calibration_error(confidence, right)
    found = {"temperature": temperature, "ece_before": calibration_error(raw, right)[0], "ece": error, "bins": bins}
    if several:
        return found
    bins[0]["low"] = max(bins[0]["low"], 1 / probabilities.shape[1])  # no lower can that of the predicted class be
    return found | {"coverage": accuracy_by_coverage(confidence, right)}


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
        return float(fisher_exact(table).pvalue)
    if min(len(own), len(rest)) < 2 or not (own.std() or rest.std()):
        return 1.0
    return float(ttest_ind(own, rest, equal_var=False).pvalue)


def slices_of(texts: list[str], tokens: list[int], windows: list[int], train_texts: Iterable[str]) -> dict:
    """Groups for `slice_scores`, of cleaned texts `[rows]`, the tokens and windows of each, and the texts of train."""
    words, known = [words_of(text) for text in texts], {word for text in train_texts for word in words_of(text)}
    lengths, unseen = np.array([(len(row), sum(word not in known for word in row)) for row in words]).T
    negated, contrasted = ([bool(part.search(text)) for text in texts] for part in (_NEGATION, _CONTRAST))
    found = {
        "words": _quartiles(lengths, "words"),
        "word pieces a word": _quartiles(np.array(tokens) / np.maximum(lengths, 1), "pieces a word"),
        "negation": _named(negated, "without negation", "with negation"),
        "contrast": _named(contrasted, "without a contrast word", "with a contrast word"),
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
    place = np.searchsorted(np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower")), values)
    ends = pd.Series(values).groupby(place).agg(["min", "max"])
    ends = ends.map(lambda end: f"{end:,.0f}" if end >= 100 else f"{end:.3g}").itertuples()
    names = {number: f"{' to '.join(dict.fromkeys(both))} {unit}" for number, *both in ends}
    return pd.Categorical([names[number] for number in place], list(dict.fromkeys(names.values())))


def confused_pairs(table: pd.DataFrame) -> list[dict]:
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
        for (label, prediction), rows in ranked[:_SHOWN_PAIRS]
    ]


def sure_errors(table: pd.DataFrame) -> pd.DataFrame:
    """The wrong rows of a table of predictions, the surest first, with columns that say how sure.

    `probability` is that of the wrong class, or of the wrong decision that is furthest from its label, which
    `decision` names; `None` of a regression, whose rows are those furthest off.
    """
    names, values = _class_names(table), row_values(table)
    wrong = table[~values if names else values > 0]
    probabilities = wrong.filter(like="probability_").to_numpy()
    if not names:
        wrong, sure = wrong.assign(probability=None), values[values > 0]
    elif isinstance(table["label"].iloc[0], str):
        sure = probabilities.max(-1, initial=0)
        wrong = wrong.assign(probability=sure)
    else:
        decided = [[[name in row for name in names] for row in wrong[which]] for which in ("label", "prediction")]
        has, given = np.array(decided).reshape(2, -1, len(names))
        off = np.where(given != has, np.abs(probabilities - has), -1.0)
        place, sure = off.argmax(-1), off.max(-1)
        chosen = probabilities[np.arange(len(wrong)), place]
        wrong = wrong.assign(probability=chosen, decision=[names[number] for number in place])
    return wrong.iloc[np.argsort(-sure, kind="stable")]


def _class_names(table: pd.DataFrame) -> list[str]:
    """The classes of a table of predictions, in order; none of a regression."""
    return [name.removeprefix("probability_") for name in table if name.startswith("probability_")]


def confident_errors(
    table: pd.DataFrame, classifier: TextClassifier, baseline: TfidfClassifier | None, train: Dataset, *, words: bool
) -> list[dict]:
    """The errors that the model is surest of, which is where wrong labels are found, with what may explain them.

    Each has columns of `sure_errors` (the text of a pair with the second behind a line), `why` (of `words_of_texts`;
    without `words` nothing, where other models gave the answers), `pieces` (the first 80 tokens), the 5 highest
    `probabilities`, and the `similar` rows of `train`, which the baseline learned from.
    """
    names, wrong, errors = _class_names(table), sure_errors(table).head(_SHOWN_ERRORS), []
    texts = list(zip(*(wrong[name] for name in ("text", "text_pair") if name in wrong)))
    asked = [parts if len(parts) == 2 else parts[0] for parts in texts]
    neighbours = baseline.similar(asked) if baseline is not None and texts else [[]] * len(texts)
    reasons = words_of_texts(classifier, asked) if words else [{} for _ in asked]
    for row, parts, similar, told in zip(wrong.to_dict("records"), texts, neighbours, reasons):
        known = [key for key in ("example_id", "id", "label", "prediction", "probability", "decision") if key in row]
        known = [key for key in known if key != "id" or not pd.isna(row["id"])]
        error = {key: row[key].tolist() if isinstance(row[key], np.ndarray) else row[key] for key in known}
        pieces = classifier.tokenizer.tokenize(" ".join(clean_all(parts, classifier.model.config.cleaning)))
        error |= {"text": "\n".join(parts), "why": told, "pieces": pieces[:_SHOWN_PIECES]}
        ranked = sorted(((row[f"probability_{name}"], name) for name in names), reverse=True)
        error["probabilities"] = {name: probability for probability, name in ranked[:_SHOWN_PROBABILITIES]}
        error["similar"] = [
            _shown(other, label_names_of(train)) | {"similarity": cosine}
            for number, cosine in similar
            if (other := train[number])["example_id"] != row["example_id"]  # which it may be with folds
        ]
        errors.append(error)
    return errors


def _shown(row: dict, names: list[str]) -> dict:
    """`text`, of a pair both in one, and `label` of a row as people read it."""
    label = row["label"]
    if isinstance(label, int | list):
        label = names[label] if isinstance(label, int) else [names[number] for number in label]
    return {"text": "\n".join(row[name] for name in ("text", "text_pair") if name in row), "label": label}


def run_probes(path: str, classifier: TextClassifier) -> list[dict]:
    """Runs the texts of a small file through the model.

    A line is a text, or a label of the model, which one expects, a tab and the text; an empty line begins a new group,
    within which texts should get the same answer; a line that begins with `#` is a comment.
    """
    lines = [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if not line.startswith("#")]
    groups, probes = (part for filled, part in groupby(lines, lambda line: line.strip() != "") if filled), []
    for group, line in ((number, line) for number, part in enumerate(groups, 1) for line in part):
        label, tab, text = line.partition("\t")
        known = tab and label in classifier.label_names
        probes.append({"group": group, "text": text if known else line, "expected": label if known else None})
    texts = [probe["text"] for probe in probes]
    for probe, answer, why in zip(probes, classifier.predict(texts), words_of_texts(classifier, texts)):
        given = answer.label if isinstance(answer.label, tuple) else (answer.label,)
        right = None if probe["expected"] is None else probe["expected"] in given
        probe |= {"prediction": answer.label, "probability": answer.score, "right": right, "why": why}
    return probes
