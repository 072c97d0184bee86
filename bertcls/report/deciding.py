"""The words that decide: of single texts, and over many of them what each label is given for."""

from functools import cache

import pandas as pd
from datasets import Dataset

from bertcls.data.labels import label_array
from bertcls.data.splits import draw_rows
from bertcls.inference import Text, TextClassifier, texts_of
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.report.baseline import TfidfClassifier, cleaned_texts
from bertcls.text import clean, count_characters, word_spans
from bertcls.words import tells_words

_SHOWN = 200  # words of a text, at most
_LONGEST = 20_000  # characters of a text whose words are told
_ROWS, _TRAIN_ROWS = 1_000, 10_000  # that are looked at, at most
_LABELS, _WORDS, _FEWEST = 20, 12, 3  # that are told, at most; texts that a word stands in, at least


def words_of_texts(classifier: TextClassifier, texts: list[Text]) -> list[dict]:
    """Of each text the `label` that its words speak for (of several, the most probable one that it was given), its
    first 200 `words` as the fields of `Word` with what each `adds`, what the strongest of all adds, `most`, and of a
    pair where the `second` text begins, a line end behind the first; of one that is too long, or has none, nothing."""
    told = tells_words(classifier.model)
    short = [row for row, text in enumerate(texts) if told and count_characters(text) <= _LONGEST]
    found: list[dict] = [{} for _ in texts]
    for row, answer in zip(short, classifier.predict([texts[row] for row in short], words=told)):
        for label in [*answer.words[0].contributions][:1] if answer.words else ():
            words = [vars(word) | {"adds": word.contributions[label]} for word in answer.words]
            most = max(abs(word["adds"]) for word in words)
            kept = [{key: word[key] for key in word if key != "contributions"} for word in words[:_SHOWN]]
            second = len(texts[row][0]) + 1 if isinstance(texts[row], tuple) else 0
            found[row] = {"label": label, "words": kept, "most": most, "second": second}
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
    kind, names = classifier.model.config.problem_type, classifier.label_names
    regression = kind == REGRESSION
    drawn = draw_rows(test, max(min(rows, _ROWS), len(names), 2), seed=0)
    texts = [text for text in texts_of(drawn) if count_characters(text) <= _LONGEST]
    read = cache(lambda word: clean(word, classifier.model.config.cleaning).strip().lower() or word.lower())
    found = [
        (row, "higher" if regression else label, read(word.text), value)
        for row, answer in enumerate(classifier.predict(texts, words=True))
        for word in answer.words
        for label, value in word.contributions.items()
        if kind != MULTI_LABEL or label in answer.label  # where none is given, they speak for the likeliest one
    ]
    table = pd.DataFrame(found, columns=["row", "label", "word", "adds"])
    if regression:
        table = pd.concat([table, table.assign(label="lower", adds=-table["adds"])])
    given = table.groupby("label")["row"].nunique().sort_values(ascending=False, kind="stable").head(_LABELS)
    sums = table.groupby(["label", "word"], as_index=False).agg(adds=("adds", "sum"), texts=("row", "nunique"))
    told = sums[(sums["adds"] > 0) & (sums["texts"] >= _FEWEST) & sums["word"].str.contains(r"\w")]
    best = told.sort_values("adds", ascending=False, kind="stable").groupby("label").head(_WORDS)
    looked, words_at = draw_rows(train, max(_TRAIN_ROWS, len(names)), seed=0), {word: [] for word in best["word"]}
    labels = label_array(looked)
    for row, text in enumerate(cleaned_texts(texts_of(looked), classifier.model.config.cleaning)):
        for word in words_at.keys() & {text[start:end].lower() for start, end in word_spans(text)}:
            words_at[word].append(row)
    facts = []
    for label, count in given.items():
        number, sign = 0 if regression else names.index(label), -1 if regression and label == "lower" else 1
        weights = {} if tfidf is None else {word: sign * one for word, one in tfidf.weights(number).items()}
        words = best[best["label"] == label].drop(columns="label").to_dict("records")
        for word in words:
            having = labels[words_at[word["word"]]]
            right = having[:, number] if having.ndim == 2 else having == number
            word |= {"adds": word["adds"] / count, "train_texts": len(having), "tfidf": weights.get(word["word"])}
            word["train_share"] = None if regression or not len(having) else float(right.mean())
        ranked = sorted(weights, key=weights.get, reverse=True)[:_WORDS]
        facts.append({"label": label, "texts": int(count), "words": words, "tfidf": ranked, "train_rows": len(looked)})
    return facts
