import re
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from bertcls.data.augmentation import _CLAUSES, _GROUPS, METHODS, augment

TEXTS = [
    "It's not a great film, but the cast is wonderful and the music is lovely.",
    "Nobody will ever call this a good film; I can't, and neither can you .",
    "Dreadful!",
    "not",
    "",
    " ... \n",
    "这 部 电影 很 好",
    "I HATED the plot \n and loved the {end}, which isn't as bad-tempered as people say",
]
POSITIVE, NEGATIVE = ({word for group in groups for word in group} for groups in (_GROUPS[:9], _GROUPS[9:]))
WORDS = st.sampled_from(
    [*"a the film bad great Awful not No n't can't never CANNOT, don’t , . ... 好 éa x1".split(), "\n", ""]
)
ANY_TEXT = st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=80)
SEEDS = st.integers(0, 1000)


def augmented(dataset, methods, *, seed):
    return augment(DatasetDict(train=dataset), methods, seed=seed)["train"]


def rows(texts=TEXTS, **columns):
    labels = [number % 3 for number in range(len(texts))]
    table = {"text": texts, "label": labels, "example_id": range(10, 10 + len(texts)), **columns}
    return Dataset.from_dict(table).cast_column("label", ClassLabel(names=["no", "yes", "maybe"]))


def words(text):
    return [word for word in text.split() if any(map(str.isalnum, word))]


def altered(method, text, seed):
    return METHODS[method](text, np.random.default_rng(seed))


@pytest.mark.parametrize("methods", [None, []])
def test_nothing_named_leaves_the_data_alone(methods):
    dataset = rows()
    assert augmented(dataset, methods, seed=0) is dataset


@pytest.mark.parametrize("method", METHODS)
def test_copies_follow_the_originals_and_keep_the_rest(method):
    dataset = rows(text_pair=[f"great {text}" for text in TEXTS])
    result = augmented(dataset, [method], seed=0)
    copies = result.to_list()[len(dataset) :]
    assert result.features == dataset.features and result.column_names == dataset.column_names
    assert result.to_list()[: len(dataset)] == dataset.to_list()
    assert 2 <= len(copies) <= len(dataset)  # at least the two long reviews
    assert [copy["example_id"] for copy in copies] == [10 + len(dataset) + number for number in range(len(copies))]
    pairs = {row["text_pair"]: row for row in dataset}
    for copy in copies:
        assert copy["label"] == pairs[copy["text_pair"]]["label"] and copy["text"] != pairs[copy["text_pair"]]["text"]


@pytest.mark.parametrize(
    ("feature", "labels"),
    [(Value("float32"), [0.1, 2.5]), (List(Value("int64")), [[0, 2], []]), (List(ClassLabel(names=["a"])), [[0], []])],
)
def test_labels_of_every_kind_are_kept(feature, labels):
    features = Features({"label": feature, "example_id": Value("int32"), "text": Value("large_string")})
    table = {"label": labels, "example_id": [7, 3], "text": ["a bad film", "a great film"]}
    dataset = Dataset.from_dict(table, features=features)
    result = augmented(dataset, ["contrast"], seed=0)
    assert result.features == features and result["example_id"][:] == [7, 3, 8, 9]
    assert result["label"][2:] == result["label"][:2] == dataset["label"][:]


def test_every_method_gives_its_own_copies():
    dataset = rows()
    alone = [augmented(dataset, [method], seed=0)["text"][len(dataset) :] for method in METHODS]
    together = augmented(dataset, list(METHODS), seed=0)
    assert together["text"][len(dataset) :] == sum(alone, [])  # whatever else is named
    assert len(set(together["example_id"])) == len(together)


def test_the_seed_decides():
    dataset = rows()
    methods = ["swap", "delete", "typo", "sentiment", "contrast"]
    first, again, other = (augmented(dataset, methods, seed=seed) for seed in (1, 1, 2))
    assert first.to_list() == again.to_list() and first._fingerprint == again._fingerprint  # so that map() is cached
    assert first["text"][:] != other["text"][:]


def test_a_copy_does_not_depend_on_the_other_rows():
    dataset = rows()
    whole, part = augmented(dataset, ["typo"], seed=0), augmented(dataset.select([7, 0]), ["typo"], seed=0)
    assert len(part) == 4 and set(part["text"]) <= set(whole["text"])


def test_equal_texts_get_copies_of_their_own():
    dataset = rows([TEXTS[0]] * 5)
    assert len(set(augmented(dataset, ["typo"], seed=0)["text"][5:])) > 1


def test_a_method_named_twice_gives_two_copies():
    dataset = rows([TEXTS[0]])
    assert len(set(augmented(dataset, ["typo", "typo"], seed=0)["text"])) == 3


def test_unknown_method_is_named():
    with pytest.raises(ValueError, match="'backtranslate'; expected one of swap, delete, typo, contrast, sentiment"):
        augmented(rows(), ["typo", "backtranslate"], seed=0)


@pytest.mark.parametrize("method", METHODS)
@given(text=ANY_TEXT, seed=SEEDS)
def test_no_text_becomes_empty_and_no_negation_is_lost(method, text, seed):
    result = altered(method, text, seed)
    assert bool(result.strip()) == bool(text.strip()) and bool(words(result)) == bool(words(text))
    before, after = (Counter(re.findall(r"n['’]t\b|\b(?:no|not|never|cannot)\b", a.lower())) for a in (text, result))
    assert not before - after


@given(text=ANY_TEXT, seed=SEEDS)
def test_swap_keeps_the_words_and_the_surroundings_of_a_negation(text, seed):
    result = altered("swap", text, seed)
    assert sorted(result.split()) == sorted(text.split())
    moved = [before != after for before, after in zip(text.split(), result.split())]
    assert sum(moved) <= 2 * max(1, round(0.1 * len(words(text))))
    for at, word in enumerate(text.split()[:-1]):
        if word in ("not", "No", "never", "can't", "don’t", "n't", "CANNOT,"):
            assert not moved[at] and not moved[at + 1]


@given(text=ANY_TEXT, seed=SEEDS)
def test_delete_takes_its_share(text, seed):
    result = altered("delete", text, seed)
    gone = len(text.split()) - len(result.split())
    assert gone <= max(1, round(0.1 * len(words(text)))) and (gone or result == text)
    assert not Counter(result.split()) - Counter(text.split())


@given(text=ANY_TEXT, seed=SEEDS)
def test_typo_takes_its_share(text, seed):
    result = altered("typo", text, seed)
    changed = [(before, after) for before, after in zip(text.split(), result.split()) if before != after]
    assert len(result.split()) == len(text.split())
    assert len(changed) <= max(1, round(0.1 * len(words(text)))) and (changed or result == text)
    for before, after in changed:
        assert abs(len(before) - len(after)) <= 1 and len(Counter(before) - Counter(after)) <= 1


def test_every_typing_error_occurs():
    made = {altered("typo", "Film", seed) for seed in range(300)}
    assert {"iFlm", "Flim", "Fim", "ilm", "Filmm", "FFilm", "Dilm", "Gilm", "Fikm", "Filn"} <= made


def test_swap_and_delete_reach_a_tenth():
    text = " ".join(f"w{number}" for number in range(100))
    assert len(altered("delete", text, 0).split()) == 90
    for seed in range(20):
        swapped = altered("swap", text, seed).split()
        moves = [abs(swapped.index(word) - at) for at, word in enumerate(text.split())]
        assert max(moves) == 1 and 12 <= sum(moves) <= 20  # of places side by side only one swaps, so no word goes far


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film is dull.", "{}the film is dull."),
        ("Alien is dull.", "{}Alien is dull."),  # a name keeps its capital
        ("I like {braces}.", "{}I like {{braces}}."),
        ("dull .", "{}dull ."),
    ],
)
def test_contrast_leads_in(text, expected):
    clauses = [clause.removesuffix("{}") for clause in _CLAUSES]
    clauses = [clause.lower() for clause in clauses] if text.islower() else clauses
    assert {altered("contrast", text, seed) for seed in range(200)} == {expected.format(clause) for clause in clauses}


@given(text=ANY_TEXT | st.lists(st.sampled_from(sorted(POSITIVE | NEGATIVE)), max_size=4).map(" ".join), seed=SEEDS)
def test_sentiment_keeps_the_polarity(text, seed):
    result = altered("sentiment", text, seed)
    changed = [pair for pair in zip(re.findall(r"\w+", text), re.findall(r"\w+", result)) if pair[0] != pair[1]]
    assert len(changed) == (result != text)
    for before, after in changed:
        assert {before.lower(), after.lower()} <= POSITIVE or {before.lower(), after.lower()} <= NEGATIVE
        assert before.islower() == after.islower() and before.isupper() == after.isupper()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Awful, really", {"Atrocious, really", "Abysmal, really", "Appalling, really"}),
        ("HATED it", {"LOATHED it", "DESPISED it", "DETESTED it"}),
        ("greater, bad-tempered, unlovely, maſterpiece", {"greater, bad-tempered, unlovely, maſterpiece"}),
    ],
)
def test_sentiment_takes_whole_words(text, expected):
    assert {altered("sentiment", text, seed) for seed in range(50)} == expected


def test_groups_are_apart_and_share_their_article():
    assert all(4 <= len(group) <= 6 for group in _GROUPS) and not POSITIVE & NEGATIVE
    assert len(POSITIVE | NEGATIVE) == sum(map(len, _GROUPS))
    assert all(
        len({word[0] in "aeiou" for word in group}) == 1
        for group in _GROUPS
        if "hated" not in group and "loved" not in group
    )


def test_copies_leak_nothing():
    train, test = (
        rows(["a superb film", "a film that is great and long"]),
        rows(["a wonderful film", "is terrific and long"]),
    )
    splits = DatasetDict(train=train, test=test.map(lambda row: {"example_id": row["example_id"] + 50}))
    texts = [augment(splits, ["sentiment"], seed=seed)["train"]["text"][2:] for seed in range(30)]
    found = {text for copies in texts for text in copies}
    assert len(found) > 4 and "a wonderful film" not in found and "a film that is terrific and long" not in found
    ids = augment(splits, ["typo"], seed=0)["train"]["example_id"][2:]
    assert min(ids) > max(splits["test"]["example_id"])
