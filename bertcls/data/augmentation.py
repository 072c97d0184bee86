"""Altered copies of training rows: small changes of a text that leave its label as it is.

Words are what stands between blanks; negations, clauses and sentiment words are English.
"""

import re

import numpy as np
from datasets import DatasetDict, concatenate_datasets

from bertcls.data.splits import MIN_WORDS, containing_texts
from bertcls.text import comparison_key

SHARE = 0.1  # of the words: the share that did best over the data sets of EDA (Wei and Zou, 2019)
_NEGATION = re.compile(
    r"\b(?:not?|never|none|nothing|nobody|nowhere|neither|nor|without|hardly|barely|scarcely|cannot)\b|n['’]t\b|"
    r"\b(?:do|does|did|is|are|was|were|ca|wo|would|could|should|has|have|had|ai)nt\b",
    re.IGNORECASE,
)
_KEYS = {
    key: row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, key in enumerate(row)
}
_CLAUSES = (  # they lean to no side, since the text decides the label
    "I did not know what to expect, but {}",
    "Opinions differ here, but {}",
    "Others may see it another way, but {}",
    "I had read next to nothing about it, but {}",
    "It took me a while to decide, but {}",
    "I can only speak for myself, but {}",
    "Everybody has to judge for themselves, but {}",
    "I had heard all sorts of things before, but {}",
)
_OPENING = re.compile(r"(?:The|This|That|These|Those|It|There|An?|My|We|You|They|He|She|In|If|When|What)\b(?!\.)")
_GROUPS = tuple(  # same polarity, part of speech and article: the adjectives of a group all take "a" or all "an"
    group.split()
    for group in (
        "great wonderful terrific marvellous superb",
        "excellent outstanding exceptional impeccable",
        "delightful charming lovely likeable pleasing",
        "funny hilarious witty comical",
        "gripping riveting compelling thrilling captivating",
        "beautiful gorgeous breathtaking stunning",
        "beautifully wonderfully superbly marvellously brilliantly",
        "masterpiece gem triumph jewel",
        "loved adored cherished treasured",
        "terrible dreadful horrible horrendous lousy",
        "awful atrocious abysmal appalling",
        "boring dull tedious dreary tiresome",
        "stupid dumb moronic brainless mindless",
        "bad shoddy crummy trashy",
        "annoying irritating infuriating exasperating",
        "poorly clumsily sloppily shoddily",
        "fiasco debacle travesty catastrophe",
        "hated loathed despised detested",
    )
)
_GROUP_OF = {word: group for group in _GROUPS for word in group}
_SENTIMENT = re.compile(rf"(?<![\w-])(?ai:{'|'.join(_GROUP_OF)})(?![\w-])")  # a: only the letters of the list


def swap(text: str, rng: np.random.Generator) -> str:
    """Swaps neighbouring words at a tenth of the places, at least one, but none next to a negation: it would turn.

    >>> swap("not bad, a fine film", np.random.default_rng(0))
    'not bad, fine a film'
    """
    parts, words = _words(text)
    negated = [bool(_NEGATION.search(parts[at])) for at in words]
    places = [
        at
        for number, (at, then) in enumerate(zip(words, words[1:]))
        if then == at + 2 and parts[at] != parts[then] and not any(negated[max(number - 1, 0) : number + 2])
    ]
    swapped = set()
    for at in _draw(places, len(words), rng):
        if not swapped & {at - 2, at + 2}:  # a word moves once
            parts[at], parts[at + 2] = parts[at + 2], parts[at]
            swapped.add(at)
    return "".join(parts)


def delete(text: str, rng: np.random.Generator) -> str:
    """Deletes a tenth of the words, at least one, but never all and no negation: its loss would turn the label.

    >>> delete("not a bad film", np.random.default_rng(0))
    'not a bad'
    """
    parts, words = _words(text)
    places = [at for at in words if not _NEGATION.search(parts[at])]
    drawn = _draw(places, len(words), rng)[: max(len(words) - 1, 0)]
    gone = {*drawn, *(at + 1 for at in drawn)}  # with the blank behind
    return "".join(part for at, part in enumerate(parts) if at not in gone).strip() if gone else text


def typo(text: str, rng: np.random.Generator) -> str:
    """Makes one typing error in a tenth of the words, at least one, but in no negation: it would be lost.

    >>> typo("not a bad film", np.random.default_rng(0))
    'not a bsd film'
    """
    parts, words = _words(text)
    places = [at for at in words if sum(map(str.isalpha, parts[at])) > 1 and not _NEGATION.search(parts[at])]
    for at in _draw(places, len(words), rng):
        parts[at] = _mistype(parts[at], rng)
    return "".join(parts)


def contrast(text: str, rng: np.random.Generator) -> str:
    """Puts a neutral clause and "but" in front, as in real texts that weigh up; what follows "but" decides.

    >>> contrast("The film is dull.", np.random.default_rng(0))
    'Everybody has to judge for themselves, but the film is dull.'
    """
    if not any(map(str.isalnum, text)):  # nothing that could decide
        return text
    body = text.lstrip()
    clause = _CLAUSES[rng.integers(len(_CLAUSES))]
    if text.islower():  # capitals would give the copies away
        clause = clause.lower()
    if _OPENING.match(body):
        body = body[0].lower() + body[1:]
    return clause.format(body)


def sentiment(text: str, rng: np.random.Generator) -> str:
    """Replaces one sentiment word by another of the same polarity and part of speech.

    >>> sentiment("A Great film.", np.random.default_rng(0))
    'A Superb film.'
    """
    found = list(_SENTIMENT.finditer(text))
    if not found:
        return text
    word = found[rng.integers(len(found))]
    others = [other for other in _GROUP_OF[word[0].lower()] if other != word[0].lower()]
    other = others[rng.integers(len(others))]
    if word[0][0].isupper():
        other = other.upper() if word[0].isupper() else other.capitalize()
    return text[: word.start()] + other + text[word.end() :]


METHODS = {method.__name__: method for method in (swap, delete, typo, contrast, sentiment)}


def check_methods(methods: list[str] | None) -> None:
    """Refuses names that are no augmentation.

    Raises:
        ValueError: such a name.
    """
    for name in methods or ():
        if name not in METHODS:
            raise ValueError(f"Found the augmentation {name!r}; expected one of {', '.join(METHODS)}.")


def augment(splits: DatasetDict, methods: list[str] | None, *, seed: int) -> DatasetDict:
    """Appends altered copies to train; a copy that stands in another split, or holds a text of it, is left out.

    Args:
        splits: with `train` and those that it must not leak into; of a pair, `text_pair` is never altered.
        methods: names from `METHODS`; each gives one copy of every row that it can change, so a name given twice gives
            two different copies. `None` or an empty list gives the splits themselves.
        seed: with the method and a row's `example_id` it decides the copy, whatever the other rows are.

    Returns:
        train with its rows as they were, then the copies, by method; the other splits. A copy has all columns of its
        row, but an `example_id` of its own, which counts on from the largest.

    Raises:
        ValueError: a name that is no method.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"text": ["Great!", "A film"], "label": [1, 0], "example_id": [0, 1]})
    >>> augment(DatasetDict(train=rows), ["sentiment"], seed=0)["train"].to_list()[-1]
    {'text': 'Terrific!', 'label': 1, 'example_id': 2}
    """
    check_methods(methods)
    if not methods:
        return splits
    dataset = splits["train"]
    texts, ids = dataset["text"][:], dataset["example_id"][:]
    rows, copies = [], []
    for place, name in enumerate(methods or ()):
        key = [seed, list(METHODS).index(name), methods[:place].count(name)]
        for row, (text, example_id) in enumerate(zip(texts, ids)):
            copy = METHODS[name](text, np.random.default_rng([*key, example_id]))
            if copy != text:
                rows.append(row)
                copies.append(copy)
    others = {comparison_key(text) for name in splits.keys() - {"train"} for text in splits[name]["text"][:]} - {""}
    long = sorted(text for text in others if text.count(" ") >= MIN_WORDS - 1)
    leaking = others.union(*containing_texts(long, [comparison_key(copy) for copy in copies]))
    kept = [at for at, copy in enumerate(copies) if comparison_key(copy) not in leaking]
    if not kept:
        return splits
    rows, copies = [rows[at] for at in kept], [copies[at] for at in kept]
    first_id = 1 + max(max(split["example_id"][:]) for split in splits.values())
    copied = dataset.select(rows).remove_columns(["text", "example_id"])
    for column, values in (("text", copies), ("example_id", list(range(first_id, first_id + len(rows))))):
        copied = copied.add_column(column, values, feature=dataset.features[column])
    train = concatenate_datasets([dataset, copied.select_columns(dataset.column_names)])
    return DatasetDict({**splits, "train": train})


def _words(text: str) -> tuple[list[str], list[int]]:
    """The text in parts, blanks and others in turn, and the places of the parts that are words, not punctuation."""
    parts = re.split(r"(\S+)", text)
    return parts, [at for at in range(1, len(parts), 2) if any(map(str.isalnum, parts[at]))]


def _draw(places: list[int], num_words: int, rng: np.random.Generator) -> list[int]:
    return rng.permutation(places)[: max(1, round(SHARE * num_words))].tolist()


def _mistype(word: str, rng: np.random.Generator) -> str:
    letters = [at for at, character in enumerate(word) if character.isalpha()]
    at = letters[rng.integers(len(letters))]
    letter, then = word[at], word[at + 1 : at + 2]
    kind = rng.integers(4)
    if kind == 0 and then.isalpha() and then != letter:
        return word[:at] + then + letter + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2 and letter.lower() in _KEYS:
        key = _KEYS[letter.lower()][rng.integers(len(_KEYS[letter.lower()]))]
        return word[:at] + (key.upper() if letter.isupper() else key) + word[at + 1 :]
    return word[:at] + letter + word[at:]
