"""The words that decide: of single texts, and over many of them what each label is given for."""

from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
from datasets import Dataset

from bertcls.data.labels import label_names_of
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.modeling import REGRESSION
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.text import clean
from bertcls.words import tells_words, word_spans

_SHOWN = 200  # words of a text, at most
_LONGEST = 20_000  # characters of a text whose words are told
_ROWS, _TRAIN_ROWS = 1_000, 10_000  # that are looked at, at most
_LABELS, _WORDS, _FEWEST = 20, 12, 3  # that are told, at most; texts that a word stands in, at least


def words_of_texts(classifier: TextClassifier, texts: list[Text]) -> list[dict]:
    """Of each text the `label` that its words speak for (of several, the most probable one that it was given), its
    first 200 `words` as the fields of `Word` with what each `adds`, what the strongest of all adds, `most`, and of a
    pair where the `second` text begins, a line end behind the first; of one that is too long, or has none, nothing."""
    short = [row for row, text in enumerate(texts) if len("".join(text)) <= _LONGEST]
    found: list[dict] = [{} for _ in texts]
    asked = [texts[row] for row in short] if tells_words(classifier.model) else []
    for row, answer in zip(short, classifier.predict(asked, words=bool(asked))):
        for label in [*answer.words[0].contributions][:1] if answer.words else ():
            adds = [word.contributions[label] for word in answer.words]
            told = [vars(word) | {"adds": value} for word, value in zip(answer.words[:_SHOWN], adds)]
            kept = [{key: value for key, value in word.items() if key != "contributions"} for word in told]
            second = len(texts[row][0]) + 1 if isinstance(texts[row], tuple) else 0
            found[row] = {"label": label, "words": kept, "most": max(map(abs, adds)), "second": second}
    return found


def deciding_words(
    classifier: TextClassifier, test: Dataset, train: Dataset, tfidf: TfidfClassifier | None, *, rows: int
) -> list[dict]:
    """What each label is given for: the words that add most to it, over at most `rows` texts of test.

    Of each `label` the `texts` that were given it, `words` (`word`, what it `adds` on the mean over these texts, the
    `texts` it stands in, in train the `train_texts` and the share of them that has the label, `train_share`, and its
    weight in `tfidf`), and the words that weigh most in `tfidf`. Of a regression the labels are `higher` and `lower`.
    """
    if not tells_words(classifier.model):
        return []
    random, regression = np.random.default_rng(0), classifier.model.config.problem_type == REGRESSION
    texts = [text for text in texts_of(_drawn(test, min(rows, _ROWS), random)) if len("".join(text)) <= _LONGEST]
    read = cache(lambda word: clean(word, classifier.model.config.cleaning).strip().lower() or word.lower())
    found = [
        (row, "higher" if regression else label, read(word.text), value)
        for row, answer in enumerate(classifier.predict(texts, words=True))
        for word in answer.words
        for label, value in word.contributions.items()
    ]
    table = pd.DataFrame(found, columns=["row", "label", "word", "adds"])
    if regression:
        table = pd.concat([table, table.assign(label="lower", adds=-table["adds"])])
    given = table.groupby("label")["row"].nunique().sort_values(ascending=False, kind="stable").head(_LABELS)
    sums = table.groupby(["label", "word"], as_index=False).agg(adds=("adds", "sum"), texts=("row", "nunique"))
    told = sums[(sums["adds"] > 0) & (sums["texts"] >= _FEWEST) & sums["word"].str.contains(r"\w")]
    best = told.sort_values("adds", ascending=False, kind="stable").groupby("label").head(_WORDS)
    in_train, with_label = _counts(train, set(best["word"]), classifier, random)
    facts = []
    for label, count in given.items():
        sign, number = (
            (-1 if regression and label == "lower" else 1),
            0 if regression else classifier.label_names.index(label),
        )
        weights = {} if tfidf is None else {word: sign * one for word, one in tfidf.weights(number).items()}
        words = best[best["label"] == label].drop(columns="label").to_dict("records")
        for word in words:
            seen = in_train[name := word["word"]]
            share = None if regression or not seen else with_label[name, label] / seen
            word |= {
                "adds": word["adds"] / count,
                "train_texts": seen,
                "train_share": share,
                "tfidf": weights.get(name),
            }
        ranked = sorted(weights, key=weights.get, reverse=True)[:_WORDS]
        facts.append({"label": label, "texts": int(count), "words": words, "tfidf": ranked})
    return facts


def _drawn(rows: Dataset, most: int, random: np.random.Generator) -> Dataset:
    return rows.select(np.sort(random.permutation(len(rows))[:most]))


def _counts(
    train: Dataset, words: set[str], classifier: TextClassifier, random: np.random.Generator
) -> tuple[Counter, Counter]:
    """Texts of train by word, and by word and label."""
    rows, names, found, labelled = _drawn(train, _TRAIN_ROWS, random), label_names_of(train), Counter(), Counter()
    for text, label in zip(cleaned_texts(texts_of(rows), classifier.model.config.cleaning), rows["label"][:]):
        there = words & {text[start:end].lower() for start, end in word_spans(text)}
        found.update(there)
        for number in () if isinstance(label, float) else label if isinstance(label, list) else [label]:
            labelled.update((word, names[number]) for word in there)
    return found, labelled
