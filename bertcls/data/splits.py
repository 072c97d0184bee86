"""Rows drawn, split and held out, with label shares kept and equal texts on one side."""

import re
from collections import Counter, defaultdict

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from bertcls.data.labels import label_array, label_names_of, problem_type_of
from bertcls.layout import DRAWN
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import warn
from bertcls.text import comparison_key

_KEY_WORDS = 4  # words by which a needle is looked up
SPLIT_SEED = 42  # of all draws that are the same for every training seed
MIN_WORDS = 4  # a shorter text stands in others by chance
_RARE = 10  # a label with fewer texts cannot keep its share in an 8:1:1 split


def draw_rows(dataset: Dataset, rows: float | None, *, seed: int = SPLIT_SEED) -> Dataset:
    """A random draw of `rows` rows, or of a share up to 1, that keeps the label shares; all for `None` or too few.

    Shares of sets of several labels are kept only where there are as many rows as sets.

    Raises:
        ValueError: fewer rows than labels.
    """
    rows = len(dataset) if rows is None else max(round(rows * len(dataset)), 1) if rows <= 1 else int(rows)
    if rows >= len(dataset):
        return dataset
    strata = _strata(dataset, np.arange(len(dataset)))
    enough = rows >= (least := len(np.unique(strata)))
    if not enough and problem_type_of(dataset) != MULTI_LABEL:
        raise ValueError(
            f"Asked for {rows} rows; expected at least {least}, since labels keep their shares. Raise "
            "--max_train_samples or --max_test_samples."
        )
    in_proportion = enough and len(dataset) - rows >= least
    drawn, _ = train_test_split(
        np.arange(len(dataset)), train_size=rows, stratify=strata if in_proportion else None, random_state=seed
    )
    return dataset.select(drawn)


def split_dataset(dataset: Dataset, ratio: str, *, seed: int = SPLIT_SEED, together: bool = True) -> DatasetDict:
    """Splits into train, validation and test with equal label shares.

    Args:
        dataset: rows with `text` and `label`.
        ratio: shares such as `8:1:1`.
        seed: of the draw; 8:1:1 with seed 42 is a split that is often reported for SST-2.
        together: keep equal texts (see `comparison_key`) in one part; without any the draw is that of `False`.

    Raises:
        ValueError: a ratio that is not three positive numbers, or too few rows of a label.

    >>> rows = Dataset.from_dict({"text": list("abcdefghijklmnopqrst"), "label": [0, 1] * 10})
    >>> rows = rows.cast_column("label", ClassLabel(names=["no", "yes"]))
    >>> {name: len(split) for name, split in split_dataset(rows, "8:1:1").items()}
    {'train': 16, 'validation': 2, 'test': 2}
    """
    if not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?){2}", ratio) or 0 in map(float, ratio.split(":")):
        raise ValueError(f"Found --split {ratio!r}; expected three positive shares such as 8:1:1.")
    shares = [float(share) for share in ratio.split(":")]
    groups = _equal_texts(dataset) if together else np.arange(len(dataset))
    if problem_type_of(dataset) == SINGLE_LABEL:
        counts = np.bincount(label_array(dataset)[np.unique(groups)], minlength=len(label_names_of(dataset)))
        if counts.min() < 3:
            raise ValueError(
                f"Label {label_names_of(dataset)[counts.argmin()]} has {counts.min()} different texts; expected at "
                "least 3 to be split into train, validation and test. Add rows, merge rare labels, or give your own "
                "--validation_file and --test_file."
            )
    train, rest = _split_groups(dataset, groups, None, 1 - shares[0] / sum(shares), seed)
    validation, test = _split_groups(dataset, groups, rest, shares[2] / (shares[1] + shares[2]), seed)
    parts = {"train": train, "validation": validation, "test": test}
    return DatasetDict({name: dataset.select(_rows_of(groups, part)) for name, part in parts.items()})


def arrange_splits(
    splits: DatasetDict,
    *,
    split: str | None = None,
    max_samples: int | None = None,
    seed: int = SPLIT_SEED,
    phrases: bool = False,
) -> tuple[DatasetDict, str]:
    """train, validation to choose the model by, and test to report; never the same rows for two of them.

    What is missing is made, with equal label shares and equal texts on one side, and said.

    Args:
        splits: as `load_splits` gives them.
        split: join train and validation and split them anew, such as `8:1:1`; without it, what is there is kept. Where
            only validation is labelled (GLUE), it is what is reported and the rows to choose by are held out of train;
            likewise where there is only test. A lone train split is split 8:1:1.
        max_samples: with `split`, the first rows of the joined data.
        seed: of the draws.
        phrases: training rows are parts of one another, as in SST-2: hold out whole texts with all their parts.

    Returns:
        the three splits, and the name of the reported one in the source, or `DRAWN`.

    Raises:
        ValueError: as `split_dataset`.
    """
    if split is not None:
        joined = concatenate_datasets([splits[name] for name in ("train", "validation") if name in splits])
        joined = joined.select(range(min(max_samples or len(joined), len(joined))))
        if "test" in splits:
            warn(
                f"--split {split} reports rows drawn from train and validation: the {len(splits['test'])} labelled "
                "rows of the test split are not used. Without --split they are the reported ones."
            )
        return split_dataset(joined, split, seed=seed), DRAWN
    if "validation" in splits and "test" in splits:
        return splits, "test"
    if len(splits) == 1 and phrases:
        train, test = hold_out_whole_texts(splits["train"], share=0.1, seed=seed)
        train, validation = hold_out_whole_texts(train, share=0.1, seed=seed)
        warn(
            f"No validation and no test split: {len(validation)} and {len(test)} rows were held out of train (seed "
            f"{seed}, whole texts with their parts)."
        )
        return DatasetDict(train=train, validation=validation, test=test), DRAWN
    if len(splits) == 1:
        parts = split_dataset(splits["train"], "8:1:1", seed=seed)
        warn(
            f"No validation and no test split: train was split 8:1:1 at random (seed {seed}, label shares kept, equal "
            f"texts together) into {len(parts['train'])}, {len(parts['validation'])} and {len(parts['test'])} rows."
        )
        return parts, DRAWN
    reported = "test" if "test" in splits else "validation"
    if phrases:
        train, validation = hold_out_whole_texts(splits["train"], seed=seed)
    else:
        train, validation = hold_out(splits["train"], rows=_held_out(len(splits["train"])), seed=seed)
    warn(
        f"No {'validation' if reported == 'test' else 'labelled test'} split: {reported} is reported, and "
        f"{len(validation)} rows to choose the model by were held out of train (seed {seed}, "
        f"{'whole texts with their parts' if phrases else 'label shares kept, equal texts together'})."
    )
    return DatasetDict(train=train, validation=validation, test=splits[reported]), reported


def hold_out(dataset: Dataset, *, rows: int, seed: int = SPLIT_SEED) -> tuple[Dataset, Dataset]:
    """Draws about `rows` rows, equal texts together, label shares kept where there are labels.

    Returns:
        the rest, and what was drawn.

    Raises:
        ValueError: too few different texts.

    >>> rest, drawn = hold_out(Dataset.from_dict({"text": list("abcdefgh")}), rows=2)
    >>> len(rest), len(drawn), set(rest["text"]) & set(drawn["text"])
    (6, 2, set())
    """
    groups = _equal_texts(dataset)
    parts = _split_groups(dataset, groups, None, rows, seed)
    rest, drawn = (dataset.select(_rows_of(groups, part)) for part in parts)
    return rest, drawn


def _held_out(rows: int, share: float = 0.05, minimum: int = 500) -> int:
    """Validation rows: a share of all rows, a number that can tell models apart, but never more than a tenth."""
    return min(max(round(share * rows), minimum), max(rows // 10, 1))


def _strata(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """A number per row of `rows` whose shares a draw keeps: the label, the set of labels, or the decile of a value.

    Rare ones are one stratum, and where that is still too small, a part of the largest.
    """
    if "label" not in dataset.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    labels, kind = label_array(dataset)[rows], problem_type_of(dataset)
    if kind == REGRESSION:
        ranks = labels.argsort(kind="stable").argsort(kind="stable")
        return ranks * min(10, max(len(labels) // 20, 1)) // len(labels)
    strata, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)[1:]
    rare = counts[strata] < _RARE
    if rare.sum() < _RARE:
        return np.where(rare, counts.argmax(), strata)
    return np.where(rare, -1, strata)


def _equal_texts(dataset: Dataset) -> np.ndarray:
    """Number of the first row with an equal text as the audit compares them `[rows]`; an empty one equals none."""
    first: dict[str, int] = {}
    return np.array(
        [first.setdefault(text, row) if text.strip() else row for row, text in enumerate(_compared(dataset))]
    )


def _compared(dataset: Dataset) -> list[str]:
    """Texts as they are compared; the two of a pair in one."""
    texts = [comparison_key(text or "") for text in dataset["text"][:]]
    if "text_pair" in dataset.column_names:
        texts = [f"{a}\n{comparison_key(b or '')}" for a, b in zip(texts, dataset["text_pair"][:])]
    return texts


def _split_groups(
    dataset: Dataset, groups: np.ndarray, among: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws groups (numbers of their first rows), all or those of `among`, into the rest and a part.

    `share` is that of the part, or its rows. Texts that stand in it often enough to fill a tenth of the part stay in
    the rest.
    """
    firsts, sizes = np.unique(groups, return_counts=True)
    among = firsts if among is None else among
    sizes, firsts = sizes[np.isin(firsts, among)], np.sort(among)
    part_rows = share if share >= 1 else share * sizes.sum()
    frequent = sizes > max(part_rows / 10, 1)
    drawn_from = among[~np.isin(among, firsts[frequent])]
    strata = _strata(dataset, drawn_from)
    # of rows as many groups as bring them; a share is left to scikit-learn, whose rounding gives the usual sizes
    wanted = max(round(share / sizes.sum() * len(drawn_from)), 1) if share >= 1 else share
    try:
        rest, part = train_test_split(drawn_from, test_size=wanted, stratify=strata, random_state=seed)
    except ValueError as error:
        raise ValueError(
            f"{len(drawn_from)} different texts cannot be split with every label in every part ({error}); expected "
            "more rows than labels in each part. Add rows, merge rare labels, or give your own --validation_file and "
            "--test_file."
        ) from error
    return np.concatenate([rest, firsts[frequent]]), part


def _rows_of(groups: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Rows of the groups drawn, in the order of the draw."""
    order = np.argsort(groups, kind="stable")
    start = np.searchsorted(groups[order], drawn, side="left")
    end = np.searchsorted(groups[order], drawn, side="right")
    return np.concatenate([order[a:b] for a, b in zip(start, end)])


def hold_out_whole_texts(
    dataset: Dataset, *, share: float = 0.05, minimum: int = 500, seed: int = SPLIT_SEED
) -> tuple[Dataset, Dataset]:
    """Takes validation rows out of train together with everything that is a part of them.

    SST-2's training rows are phrases of sentences: a random draw leaves most of its texts in train as parts of others.
    So whole texts are drawn, those contained in no other. A row contained in a drawn text leaves train; it goes to
    validation unless a text that stays contains it, too. So no text of one side stands in a text of the other.

    Args:
        dataset: rows with `text` and `label`.
        share: share of the rows that goes to validation.
        minimum: validation rows at least, but never more than a tenth of all rows.
        seed: of the draw.

    Returns:
        train and validation.

    Raises:
        ValueError: the texts stand in one another so much that no row would stay in train.
    """
    texts = [comparison_key(text) or text for text in dataset["text"][:]]
    whole = sorted(set(texts) - {text for text, found in zip(texts, containers(texts, texts)) if found - {text}})
    rank = {text: place for place, text in enumerate(np.random.default_rng(seed).permutation(whole))}
    ranks = [[rank[text] for text in found] for found in containers(texts, whole)]
    first, last = np.array([min(row) for row in ranks]), np.array([max(row) for row in ranks])
    drawn = np.sort(last)[_held_out(len(texts), share, minimum) - 1] + 1  # whole texts that bring so many rows
    train, validation = np.flatnonzero(first >= drawn), np.flatnonzero(last < drawn)
    if len(train) == 0:
        raise ValueError(
            f"Found {len(texts)} training texts that stand in one another, so none stays beside a validation text; "
            "expected different texts. Remove duplicates, or give a validation split."
        )
    return dataset.select(train), dataset.select(validation)


def containers(needles: list[str], haystacks: list[str]) -> list[set[str]]:
    """The texts of `haystacks` in which each needle stands, word for word and without a gap.

    Time grows with the words of the haystacks, not with their square.

    Args:
        needles: texts whose words are parted by single blanks.
        haystacks: likewise; a needle that is among them contains itself.

    Returns:
        a set of haystacks per needle.

    >>> [sorted(found) for found in containers(["a fine", "fine a", "film"], ["a fine film", "film"])]
    [['a fine film'], [], ['a fine film', 'film']]
    """
    found: dict[str, set[str]] = {text: set() for text in needles}
    counts = Counter(word for text in found for word in text.split(" "))
    keys = defaultdict(
        list
    )  # some words of a needle, around its rarest -> needle, its words before them, all its words
    for text in found:
        words = text.split(" ")
        size = min(_KEY_WORDS, len(words))
        rarest = min(range(len(words)), key=lambda place: counts[words[place]])
        start = min(rarest, len(words) - size)
        keys[" ".join(words[start : start + size])].append((text, start, len(words)))
    sizes = sorted({key.count(" ") + 1 for key in keys})
    unique = set(haystacks)
    for haystack in tqdm(unique, desc="Searching texts in others", disable=len(unique) < 100_000):
        words = haystack.split(" ")
        for size in sizes:
            for start in range(len(words) - size + 1):
                for text, before, length in keys.get(" ".join(words[start : start + size]), ()):
                    first = start - before
                    if first >= 0 and (length == size or " ".join(words[first : first + length]) == text):
                        found[text].add(haystack)
    return [found[text] for text in needles]
