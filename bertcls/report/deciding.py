"""The words that decide: of single texts, and over many of them what each label is given for."""

from collections import Counter, defaultdict

import numpy as np
from datasets import Dataset

from bertcls.data.labels import label_names_of
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.modeling import REGRESSION
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.words import word_spans

_LONGEST = 20_000  # characters of a text whose words are told
_ROWS, _TRAIN_ROWS = 1_000, 10_000  # that are looked at, at most
_LABELS, _WORDS = 20, 12  # that are told, at most
_FEWEST = 3  # texts that a word stands in


def words_of_texts(classifier: TextClassifier, texts: list[Text]) -> list[dict]:
    """Of each text the `label` that its words speak for, and its `words` as the fields of `Word`, with what each
    `adds`; of a text that is too long, or has none, nothing."""
    found = [{} for _ in texts]
    short = [row for row, text in enumerate(texts) if len("".join(text)) <= _LONGEST]
    for row, answer in zip(short, classifier.predict([texts[row] for row in short], words=True)):
        for label in [*answer.words[0].contributions][:1] if answer.words else ():
            told = [vars(word) | {"adds": word.contributions[label]} for word in answer.words]
            for word in told:
                del word["contributions"]
            found[row] = {"label": label, "words": told}
    return found


def deciding_words(
    classifier: TextClassifier, test: Dataset, train: Dataset, tfidf: TfidfClassifier | None, *, rows: int
) -> list[dict]:
    """What each label is given for: the words that add most to it, over texts of test that are given it.

    Args:
        classifier: that is asked.
        test, train: rows with raw `text` and `label`.
        tfidf: a simple model that was fitted; `None` where there is none.
        rows: of test at most, drawn.

    Returns:
        of each `label` the `texts` that were given it, `words` (`word`, what it `adds` on the mean over these texts,
        the `texts` it stands in, in train the `train_texts` and the share that has the label, `train_share`, and its
        weight in `tfidf`) and the words that weigh most in `tfidf`. Of a regression the labels are `higher` and
        `lower`.
    """
    random, regression = np.random.default_rng(0), classifier.model.config.problem_type == REGRESSION
    texts = [text for text in texts_of(_drawn(test, min(rows, _ROWS), random)) if len("".join(text)) <= _LONGEST]
    adds, standing, given = defaultdict(Counter), defaultdict(Counter), Counter()
    for answer in classifier.predict(texts, words=True):
        of_text: dict[str, Counter] = defaultdict(Counter)
        for word in answer.words:
            for label, value in word.contributions.items():
                for name, sign in (("higher", 1), ("lower", -1)) if regression else ((label, 1),):
                    of_text[name][word.text.lower()] += sign * value
        for label, values in of_text.items():
            given[label] += 1
            standing[label].update(dict.fromkeys(values, 1))
            for word, value in values.items():
                adds[label][word] += value
    best = {
        label: [
            word
            for word, value in adds[label].most_common()
            if value > 0 and standing[label][word] >= _FEWEST and any(map(str.isalnum, word))
        ][:_WORDS]
        for label, _ in given.most_common(_LABELS)
    }
    in_train, with_label = _counts(train, {word for words in best.values() for word in words}, classifier, random)
    found = []
    for label, words in best.items():
        sign, number = (-1 if label == "lower" else 1), 0 if regression else classifier.label_names.index(label)
        weights = {} if tfidf is None else tfidf.weights(number)
        ranked = sorted(weights, key=lambda word: -sign * weights[word])[:_WORDS]
        told = [
            {
                "word": word,
                "adds": adds[label][word] / given[label],
                "texts": standing[label][word],
                "train_texts": in_train[word],
                "train_share": None if regression or not in_train[word] else with_label[word, label] / in_train[word],
                "tfidf": sign * weights[word] if word in weights else None,
            }
            for word in words
        ]
        found.append({"label": label, "texts": given[label], "words": told, "tfidf": ranked})
    return found


def _drawn(rows: Dataset, most: int, random: np.random.Generator) -> Dataset:
    return rows.select(np.sort(random.permutation(len(rows))[:most]))


def _counts(
    train: Dataset, words: set[str], classifier: TextClassifier, random: np.random.Generator
) -> tuple[Counter, Counter]:
    """Texts of train by word, and by word and label."""
    rows, names = _drawn(train, _TRAIN_ROWS, random), label_names_of(train)
    found, labelled = Counter(), Counter()
    for text, label in zip(cleaned_texts(texts_of(rows), classifier.model.config.cleaning), rows["label"][:]):
        there = words & {text[start:end].lower() for start, end in word_spans(text)}
        found.update(there)
        for number in () if isinstance(label, float) else label if isinstance(label, list) else [label]:
            labelled.update((word, names[number]) for word in there)
    return found, labelled
