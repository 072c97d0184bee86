"""Rows drawn, split and held out, with label shares kept and equal texts on one side."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from tqdm.auto import tqdm

from bertcls.data.columns import key_digests
from bertcls.data.labels import label_array, label_names_of, problem_type_of
from bertcls.layout import DRAWN, FOLDS
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import remembered, warn
from bertcls.text import comparison_key

SPLIT_SEED = 42  # of all draws that are the same for every training seed; SST-2's 8:1:1 is often reported with it
MIN_WORDS = 4  # a shorter text stands in others by chance
_KEY_WORDS = 4  # words by which a text is looked for in others
_PARTS_OF_A_KEY = 50  # of more, each is looked for word by word
FEWEST_TO_CHOOSE_BY = 50  # rows: fewer choose an epoch by chance


def arrange_splits(
    splits: DatasetDict,
    *,
    split: str | None = None,
    max_samples: int | None = None,
    seed: int = SPLIT_SEED,
    phrases: bool = False,
    fold: str | None = None,
) -> tuple[DatasetDict, str]:
    """train, validation to choose the model by, and test to report; never the same rows for two of them.

    What is missing is made, label shares kept, equal texts on one side, and said. A lone train split is split 8:1:1;
    where there is only test, or only validation (GLUE), that is reported, and the rows to choose by come from train.
    Fewer than 50 rows would choose by chance: then none is held out, and there is no validation split.

    Args:
        split: join train and validation and split them anew in these shares, such as `8:1:1`.
        max_samples: with `split`, the first rows of the joined data.
        seed: of the draws.
        phrases: training rows are parts of one another, as in SST-2: hold out whole texts with all their parts.
        fold: `2/5` reports the second of five parts of the labelled rows that are not test, and trains on the others;
            `final/5` trains on all of them, and reports test or, without one, all of them by the folds' answers;
            `validation-2/5` leaves the reported rows as they are without it, and chooses by the second of five parts
            of the others.

    Returns:
        the splits, and the name of the reported one in the source, or `DRAWN`.

    Raises:
        ValueError: shares that are not three positive numbers, or too few rows of a label.
    """
    if fold is not None:
        number, _, count = fold.removeprefix("validation-").partition("/")
        known = count.isdecimal() and int(count) > 1 and (number.isdecimal() or fold == f"final/{count}")
        if not known or number.isdecimal() and not 0 < int(number) <= int(count):
            raise ValueError(f"Found --fold {fold}; expected one such as 2/5. Correct it.")
    if fold is not None and fold.startswith("validation-"):
        parts, reported = arrange_splits(splits, split=split, max_samples=max_samples, seed=seed, phrases=phrases)
        joined = concatenate_datasets([parts[name] for name in ("train", "validation") if name in parts])
        train, validation = _hold_out_fold(joined, int(number), int(count), seed)
        return DatasetDict(train=train, validation=validation, test=parts["test"]), reported
    if fold is not None or split is not None:
        joined = concatenate_datasets([splits[name] for name in ("train", "validation") if name in splits])
    if fold is not None:
        if number == "final":
            test = splits.get("test")
            return DatasetDict(train=joined, test=test or joined), FOLDS if test is None else "test"
        kept, held = _hold_out_fold(joined, int(number), int(count), seed)
        train, validation = hold_out(kept, seed=seed)
        parts = DatasetDict(train=train, validation=validation, test=held)
        return _without_few(parts, seed), f"fold {number} of {count}"
    if split is not None:
        joined = joined.select(range(min(max_samples or len(joined), len(joined))))
        if "test" in splits:
            warn(
                f"--split {split} reports rows drawn from train and validation: the {len(splits['test'])} labelled "
                "rows of the test split are not used. Without it they are reported."
            )
        parts = _without_few(split_dataset(joined, split, seed=seed), seed)
        if off := _deviation(list(parts.values())):
            warn(off)
        return parts, DRAWN
    if "validation" in splits and "test" in splits:
        return splits, "test"
    how = f"seed {seed}, {'whole texts with their parts' if phrases else 'label shares kept, equal texts together'}"
    reported = next((name for name in ("test", "validation") if name in splits), DRAWN)
    if reported != DRAWN:
        train, validation = (hold_out_whole_texts if phrases else hold_out)(splits["train"], seed=seed)
        parts = DatasetDict(train=train, validation=validation, test=splits[reported])
    elif phrases:
        rest, test = hold_out_whole_texts(splits["train"], share=0.1, seed=seed)
        train, validation = hold_out_whole_texts(rest, share=0.1, seed=seed)
        parts = DatasetDict(train=train, validation=validation, test=test)
    else:
        parts = split_dataset(splits["train"], "8:1:1", seed=seed)
    parts = _without_few(parts, seed)
    rows = f"{len(parts['validation'])} rows for validation" if "validation" in parts else "no row to choose by"
    rows += f", {len(parts['test'])} for test" if reported == DRAWN else f"; {reported} is reported"
    drawn = [part for name, part in parts.items() if name != "test" or reported == DRAWN]
    warn(f"Held out of train ({how}): {rows}. {_deviation(drawn)}".rstrip())
    return parts, reported


def _deviation(parts: list[Dataset]) -> str:
    """How far shares of several labels are from those of all rows, which no draw keeps for each label."""
    if len(parts) == 1 or problem_type_of(parts[0]) != MULTI_LABEL:
        return ""
    labels = list(map(label_array, parts))
    off = np.abs(np.stack([part.mean(0) for part in labels]) - np.concatenate(labels).mean(0))
    name = label_names_of(parts[0])[int(off.max(0).argmax())]
    return f"Label shares differ by {100 * off.max():.1f} points at most ({name})."


def _without_few(parts: DatasetDict, seed: int) -> DatasetDict:
    """Puts held-out rows back into train where they are too few to choose by."""
    if len(parts["validation"]) >= FEWEST_TO_CHOOSE_BY:
        return parts
    train = concatenate_datasets([parts["train"], parts["validation"]]).shuffle(seed=seed)
    return DatasetDict(train=train, test=parts["test"])


def _hold_out_fold(rows: Dataset, number: int, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """The rest, and part `number` of `count`: equal texts together, label shares kept."""
    groups = _equal_texts(rows)
    firsts = np.unique(groups)
    if problem_type_of(rows) == SINGLE_LABEL:
        counts = zip(*np.unique(label_array(rows)[firsts], return_counts=True))
        fewest, label = min((n, label) for label, n in counts)
        if fewest < count:
            raise ValueError(
                f"Found --folds {count} and {fewest} different texts of {label_names_of(rows)[label]}; expected at "
                "most as many folds. Lower it, or add rows."
            )
    several = problem_type_of(rows) == MULTI_LABEL
    labels = label_array(rows)[firsts] if several else _strata(rows, firsts)
    if not several and np.bincount(labels).max() < count:  # more folds than texts in a decile of values
        labels = np.zeros_like(labels)
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # scikit-learn, which --help does without
    from sklearn.model_selection import StratifiedKFold

    folds = (MultilabelStratifiedKFold if several else StratifiedKFold)(count, shuffle=True, random_state=seed)
    kept, held = (firsts[places] for places in list(folds.split(firsts, labels))[number - 1])
    return _select(rows, groups, kept), _select(rows, groups, held)


def draw_rows(dataset: Dataset, rows: float | None, *, seed: int = SPLIT_SEED) -> Dataset:
    """A random draw of rows, or of a share up to 1, that keeps label shares, of sets of labels where rows suffice.

    All rows for `None` or too many.
    """
    if isinstance(rows, float):
        rows = max(round(rows * len(dataset)), 1) if rows <= 1 else int(rows)
    if rows is None or rows >= len(dataset):
        return dataset
    classes = "label" in dataset.column_names and problem_type_of(dataset) == SINGLE_LABEL
    if classes and rows < (least := len(np.unique(label_array(dataset)))):
        raise ValueError(f"Asked for {rows} rows; expected at least {least}, since labels keep their shares.")
    drawn, _ = _stratified(dataset, np.arange(len(dataset)), len(dataset) - rows, seed)
    return dataset.select(drawn)


def split_dataset(dataset: Dataset, shares: str, *, seed: int = SPLIT_SEED, together: bool = True) -> DatasetDict:
    """train, validation and test in shares such as `8:1:1`, equal texts `together` in one (by `comparison_key`)."""
    if not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?){2}", shares) or 0 in map(float, shares.split(":")):
        raise ValueError(f"Found --split {shares!r}; expected three positive shares such as 8:1:1.")
    for_train, for_validation, for_test = map(float, shares.split(":"))
    groups = _equal_texts(dataset) if together else np.arange(len(dataset))
    without_train = 1 - for_train / (for_train + for_validation + for_test)
    train, rest = _split_groups(dataset, groups, np.unique(groups), without_train, seed)
    validation, test = _split_groups(dataset, groups, rest, for_test / (for_validation + for_test), seed)
    parts = {"train": train, "validation": validation, "test": test}
    return DatasetDict({name: _select(dataset, groups, part) for name, part in parts.items()})


def hold_out(dataset: Dataset, *, rows: int | None = None, seed: int = SPLIT_SEED) -> tuple[Dataset, Dataset]:
    """The rest, and about `rows` rows drawn: equal texts together, label shares kept where there are labels."""
    groups = _equal_texts(dataset)
    rest, drawn = _split_groups(dataset, groups, np.unique(groups), rows or _held_out(len(dataset)), seed)
    return _select(dataset, groups, rest), _select(dataset, groups, drawn)


@remembered
def hold_out_whole_texts(dataset: Dataset, *, share: float = 0.05, seed: int = SPLIT_SEED) -> tuple[Dataset, Dataset]:
    """train and validation, so that no text of one side stands in a text of the other, as SST-2's phrases would.

    Texts that stand in no other are drawn until they bring `_held_out` rows. A row that stands in a drawn text leaves
    train; it goes to validation unless it stands in a text that stays, too.
    """
    texts = [comparison_key(text) or text for text in dataset["text"][:]]
    different = [*dict.fromkeys(texts)]
    containing: dict[str, set[str]] = {text: set() for text in different}
    for part, place in find_within(different, different, count=len(different)):
        containing[part].add(different[place])  # the text itself, too
    whole = sorted(text for text, found in containing.items() if len(found) == 1)
    rank = {text: place for place, text in enumerate(np.random.default_rng(seed).permutation(whole))}
    ranks = [[rank[text] for text in containing[part] if text in rank] for part in texts]
    first, last = np.array([min(row) for row in ranks]), np.array([max(row) for row in ranks])
    drawn = np.sort(last)[_held_out(len(texts), share) - 1] + 1  # whole texts that bring so many rows
    train, validation = np.flatnonzero(first >= drawn), np.flatnonzero(last < drawn)
    if len(train) == 0:
        raise ValueError(f"Found {len(texts)} training texts that stand in one another. Remove duplicates.")
    return dataset.select(train), dataset.select(validation)


def _held_out(rows: int, share: float = 0.05) -> int:
    """Validation rows: a share of all rows, a number that can tell models apart, but never more than a tenth."""
    return min(max(round(share * rows), 500), max(rows // 10, 1))


def _strata(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """What a draw of `rows` keeps the shares of: the label, or the decile of a value; not for several labels."""
    if "label" not in dataset.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    labels = label_array(dataset)[rows]
    if problem_type_of(dataset) == REGRESSION:
        ranks = labels.argsort(kind="stable").argsort(kind="stable")
        return ranks * min(10, max(len(labels) // 20, 1)) // len(labels)
    return np.unique(labels, return_inverse=True)[1]


def _equal_texts(dataset: Dataset) -> np.ndarray:
    """Number of the first row with an equal text as the audit compares them `[rows]`; an empty one equals none."""
    keys, empty = key_digests(dataset)
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return np.where(empty, np.arange(len(keys)), first[place])


def _split_groups(
    dataset: Dataset, groups: np.ndarray, among: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Groups (numbers of first rows) drawn from `among` into a rest and a share, or number, of the rows."""
    sizes = np.bincount(groups)[among]
    part_rows = share if share >= 1 else share * sizes.sum()
    frequent = sizes > max(part_rows / 10, 1)  # texts that would fill a tenth of the part stay in the rest
    drawn_from = among[~frequent]
    if len(drawn_from) < 2:
        raise ValueError(
            f"Found {len(among)} different texts to hold some out of; expected more, none of which fills a tenth. Add "
            "rows, or give --validation_file and --test_file."
        )
    # of rows as many groups as bring them; a share is left to scikit-learn, whose rounding gives the usual sizes
    wanted = max(round(share / sizes.sum() * len(drawn_from)), 1) if share >= 1 else share
    rest, part = _stratified(dataset, drawn_from, wanted, seed)
    return np.concatenate([rest, among[frequent]]), part


def _stratified(dataset: Dataset, rows: np.ndarray, wanted: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rest of `rows`, and a number or share of them: of each label within one of its share; a lone one stays."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
    from sklearn.model_selection import train_test_split

    random, size = np.random.default_rng(seed), max(round(wanted * len(rows)), 1) if wanted < 1 else int(wanted)
    if "label" in dataset.column_names and problem_type_of(dataset) == MULTI_LABEL:
        draw = MultilabelStratifiedShuffleSplit(1, test_size=wanted, random_state=seed)
        rest, part = next(draw.split(rows, label_array(dataset)[rows]))
        order = np.concatenate([random.permutation(part), random.permutation(rest)])  # it draws some more or fewer
        return rows[order[size:]], rows[order[:size]]
    strata = _strata(dataset, rows)
    with suppress(ValueError):  # it asks for two of each label, and for a row of each in the part
        return train_test_split(rows, test_size=wanted, stratify=strata, random_state=seed)
    lone = np.bincount(strata)[strata] == 1
    order = random.permutation(np.flatnonzero(~lone) if (~lone).sum() >= size else len(rows))
    order = order[np.argsort(strata[order], kind="stable")]
    places = ((np.arange(size) + random.random()) * len(order) / size).astype(int)
    drawn = np.isin(np.arange(len(rows)), order[places])
    return rows[~drawn], rows[drawn]


def _select(dataset: Dataset, groups: np.ndarray, drawn: np.ndarray) -> Dataset:
    """Rows of the groups drawn, in the order of the draw."""
    place = np.full(len(groups), -1)
    place[drawn] = np.arange(len(drawn))
    rows = np.flatnonzero(place[groups] >= 0)
    return dataset.select(rows[np.argsort(place[groups[rows]], kind="stable")])


def find_within(parts: Iterable[str], texts: Iterable[str], *, count: int) -> Iterator[tuple[str, int]]:
    """Each of the different `parts` with the place of each of `count` texts in which it stands, word for word; once or
    more. Time grows with words and finds; the texts are read one after another.
    """
    parts = [*parts]
    counts = Counter(word for part in parts for word in part.split(" "))
    keys = defaultdict(list)  # some words of a part, around its rarest: the part, its words before them, all its words
    for part in parts:
        words = part.split(" ")
        size = min(_KEY_WORDS, len(words))
        rarest = min(range(len(words)), key=lambda place: counts[words[place]])
        start = min(rarest, len(words) - size)
        keys[" ".join(words[start : start + size])].append((part, start, len(words)))
    frequent = [key for key, group in keys.items() if len(group) > _PARTS_OF_A_KEY]
    nodes, ends, shorter = _word_tree([part for key in frequent for part, *_ in keys.pop(key)])
    sizes = sorted({key.count(" ") + 1 for key in keys})
    shown = tqdm(texts, desc="Searching texts in others", total=count, disable=count < 100_000)
    for place, text in enumerate(shown):
        words = text.split(" ")
        for size in sizes:
            for start in range(len(words) - size + 1):
                for part, before, length in keys.get(" ".join(words[start : start + size]), ()):
                    first = start - before
                    if first >= 0 and (length == size or " ".join(words[first : first + length]) == part):
                        yield part, place
        node, seen = 0, {0}
        for word in words if frequent else ():
            while node and word not in nodes[node]:
                node = shorter[node]
            node = end = nodes[node].get(word, 0)
            while end not in seen:  # the ends below one that was seen are found already
                seen.add(end)
                if end in ends:
                    yield ends[end], place
                end = shorter[end]


def _word_tree(parts: list[str]) -> tuple[list[dict[str, int]], dict[int, str], list[int]]:
    """The automaton of Aho and Corasick (1975) over words: the nodes that follow each node, the part that ends in a
    node, and the node of its longest end that begins a part, too."""
    nodes: list[dict[str, int]] = [{}]
    ends = {}
    for part in parts:
        node = 0
        for word in part.split(" "):
            node = nodes[node].setdefault(word, len(nodes))
            if node == len(nodes):
                nodes.append({})
        ends[node] = part
    shorter, queue = [0] * len(nodes), deque([0])
    while queue:
        node = queue.popleft()
        for word, child in nodes[node].items():
            end = shorter[node]
            while end and word not in nodes[end]:
                end = shorter[end]
            shorter[child] = nodes[end].get(word, 0) if node else 0
            queue.append(child)
    return nodes, ends, shorter
