"""From a data set on the Hub or on disk to splits with the columns text, label and example_id."""

import re
from collections import defaultdict
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

_KEY_WORDS = 4  # a needle is looked up by its first words
TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels")


def load_splits(
    dataset_name: str,
    config_name: str | None = None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> DatasetDict:
    """Loads a data set and brings it into the form that everything else expects.

    Args:
        dataset_name: Hub id, or a local folder in the Hub's layout.
        config_name: configuration (subset) of the data set.
        text_column: column with the texts; `None` takes the first of `TEXT_COLUMNS` that is there.
        label_column: column with the labels; `None` takes the first of `LABEL_COLUMNS` that is there.
        revision: Hub revision.

    Returns:
        The splits train, validation and test, as far as they exist, each with `text` (string), `label` (`ClassLabel`)
        and `example_id` (int64, counted on across the splits). A test split whose labels are all hidden (-1) is left
        out.

    Raises:
        FileNotFoundError: no such data set.
        ValueError: no train split, a missing column, an empty split, texts that are not strings, rows without a label
            or labels outside the classes.
    """
    raw = _load(dataset_name, config_name, revision)
    if "train" not in raw:
        raise ValueError(
            f"Found the splits {', '.join(raw)} in {dataset_name}; expected one named train. Rename a split or file."
        )
    splits = {name: raw[name] for name in ("train", "validation", "test") if name in raw}
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"The {name} split of {dataset_name} has 0 rows; expected at least 1. Check the file.")
    text_column = _find_column(splits["train"], text_column, TEXT_COLUMNS, "--text_column")
    label_column = _find_column(splits["train"], label_column, LABEL_COLUMNS, "--label_column")
    names = _label_names(splits["train"], label_column)

    code = [Path(__file__).with_name(f"{module}.py").read_bytes() for module in ("text", "tokenization")]
    result, first_id = DatasetDict(), 0
    for name, split in splits.items():
        for column, flag in ((text_column, "--text_column"), (label_column, "--label_column")):
            _find_column(split, column, (), flag, where=f"the {name} split")
        labels = _label_ids(split, label_column, names, name)
        if name == "test" and (labels == -1).all():
            continue  # hidden labels, as in GLUE
        if (labels == -1).any():
            raise ValueError(
                f"Found {(labels == -1).sum()} unlabelled rows (-1 or empty) in {name}, the first at row "
                f"{int(np.argmax(labels == -1))}; expected a label in every row. Remove them, name another "
                "--label_column, or write -1 as a name where it is a class."
            )
        _check_texts(split, text_column, name)
        texts = split.select_columns([text_column]).rename_columns({text_column: "text"})
        if texts.features["text"].dtype != "string":  # csv gives large_string
            texts = texts.cast_column("text", Value("string"))
        labelled = texts.add_column("label", labels, feature=ClassLabel(names=names))
        # datasets caches map() by the name of a function of a module: its fingerprint must see an edit of ours
        fingerprint = Hasher.hash([labelled._fingerprint, first_id, code])
        ids = np.arange(first_id, first_id + len(split))
        result[name] = labelled.add_column("example_id", ids, new_fingerprint=fingerprint)
        first_id += len(split)
    return result


def label_shares(dataset: Dataset) -> dict[str, float]:
    """Share of rows per label name.

    >>> rows = Dataset.from_dict({"label": [0, 1, 1, 1]}).cast_column("label", ClassLabel(names=["no", "yes"]))
    >>> label_shares(rows)
    {'no': 0.25, 'yes': 0.75}
    """
    names = dataset.features["label"].names
    counts = np.bincount(dataset["label"][:], minlength=len(names))
    return {name: float(count / len(dataset)) for name, count in zip(names, counts)}


def balanced_class_weights(labels: list[int], num_labels: int) -> list[float]:
    """Weights inverse to the class counts, with mean 1 over the rows, so that the learning rate keeps its meaning.

    Raises:
        ValueError: a class without a row.

    >>> balanced_class_weights([0, 0, 0, 1], num_labels=2)
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(labels, minlength=num_labels)
    if (counts == 0).any():
        raise ValueError(
            f"Class {int(np.argmin(counts))} has no training row, so it has no balanced weight; add rows or use "
            "--class_weights none."
        )
    return (len(labels) / (num_labels * counts)).tolist()


def draw_rows(dataset: Dataset, rows: int | None, *, seed: int) -> Dataset:
    """A random draw of `rows` rows that keeps the label shares; the whole data set for `None` or where it has no more.

    Raises:
        ValueError: fewer rows than labels.
    """
    if rows is None or rows >= len(dataset):
        return dataset
    labels = np.array(dataset["label"][:])
    counts = np.unique(labels, return_counts=True)[1]
    if rows < len(counts):
        raise ValueError(
            f"Asked for {rows} rows, but there are {len(counts)} labels; expected at least as many rows. Raise "
            "--max_train_samples."
        )
    in_proportion = counts.min() > 1 and len(dataset) - rows >= len(counts)
    drawn, _ = train_test_split(
        np.arange(len(dataset)), train_size=rows, stratify=labels if in_proportion else None, random_state=seed
    )
    return dataset.select(drawn)


def split_dataset(dataset: Dataset, ratio: str, *, seed: int = 42) -> DatasetDict:
    """Splits into train, validation and test with equal label shares.

    Args:
        dataset: rows with a `ClassLabel` column `label`.
        ratio: shares such as `8:1:1`.
        seed: of the draw; 8:1:1 with seed 42 is a split that is often reported for SST-2.

    Raises:
        ValueError: a ratio that is not three positive numbers, or too few rows of a label.

    >>> rows = Dataset.from_dict({"label": [0, 1] * 10}).cast_column("label", ClassLabel(names=["no", "yes"]))
    >>> {name: len(split) for name, split in split_dataset(rows, "8:1:1").items()}
    {'train': 16, 'validation': 2, 'test': 2}
    """
    if not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?){2}", ratio) or 0 in map(float, ratio.split(":")):
        raise ValueError(f"Found --split {ratio!r}; expected three positive shares such as 8:1:1.")
    shares = [float(share) for share in ratio.split(":")]
    labels = np.array(dataset["label"][:])
    try:
        train, rest = train_test_split(
            np.arange(len(dataset)), test_size=1 - shares[0] / sum(shares), stratify=labels, random_state=seed
        )
        validation, test = train_test_split(
            rest, test_size=shares[2] / (shares[1] + shares[2]), stratify=labels[rest], random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"{len(dataset)} rows cannot be split {ratio} with every label in every part: {error} Give more rows, or "
            "merge rare labels."
        ) from error
    return DatasetDict(train=dataset.select(train), validation=dataset.select(validation), test=dataset.select(test))


def arrange_splits(
    splits: DatasetDict, *, ratio: str | None = None, max_samples: int | None = None, seed: int = 42
) -> tuple[DatasetDict, str]:
    """train, validation to choose the model by, and test to report; never the same rows for two of them.

    Args:
        splits: as `load_splits` gives them.
        ratio: join train and validation and split them anew, such as `8:1:1`; without it, what is there is kept. Where
            only validation is labelled (GLUE), it is what is reported and the rows to choose by are held out of train;
            likewise where there is only test. A lone train split is split 8:1:1.
        max_samples: with `ratio`, the first rows of the joined data.
        seed: of the draws.

    Returns:
        the three splits, and the name of the reported one: that of the source where it is a split of the source, and
        `test` where it was drawn.

    Raises:
        ValueError: as `split_dataset`.
    """
    if ratio is not None:
        joined = concatenate_datasets([splits[name] for name in ("train", "validation") if name in splits])
        joined = joined.select(range(min(max_samples or len(joined), len(joined))))
        return split_dataset(joined, ratio, seed=seed), "test"
    if "validation" in splits and "test" in splits:
        return splits, "test"
    if len(splits) == 1:
        return split_dataset(splits["train"], "8:1:1", seed=seed), "test"
    reported = "test" if "test" in splits else "validation"
    train, validation = hold_out_whole_texts(splits["train"], seed=seed)
    return DatasetDict(train=train, validation=validation, test=splits[reported]), reported


def hold_out_whole_texts(
    dataset: Dataset, *, share: float = 0.05, minimum: int = 500, seed: int = 42
) -> tuple[Dataset, Dataset]:
    """Takes validation rows out of train together with everything that is a part of them.

    SST-2's training rows are phrases of sentences: a random draw leaves most of its texts in train as parts of others.
    So whole texts are drawn, those contained in no other. A row contained in a drawn text leaves train; it goes to
    validation unless a text that stays contains it, too. So no text of one side stands in a text of the other.

    Args:
        dataset: rows with `text` and `label`.
        share: share of the rows that goes to validation.
        minimum: validation rows at least, but never more than a fifth of all rows.
        seed: of the draw.

    Returns:
        train and validation.

    Raises:
        ValueError: the texts stand in one another so much that no row would stay in train.
    """
    texts = [normalise(text) for text in dataset["text"][:]]
    whole = sorted(set(texts) - {text for text, found in zip(texts, containers(texts, texts)) if found - {text}})
    rank = {text: place for place, text in enumerate(np.random.default_rng(seed).permutation(whole))}
    ranks = [[rank[text] for text in found] for found in containers(texts, whole)]
    first, last = np.array([min(row) for row in ranks]), np.array([max(row) for row in ranks])
    rows = min(max(round(share * len(texts)), minimum), max(len(texts) // 5, 1))
    drawn = np.sort(last)[rows - 1] + 1  # whole texts that bring so many rows
    train, validation = np.flatnonzero(first >= drawn), np.flatnonzero(last < drawn)
    if len(train) == 0:
        raise ValueError(
            f"Found {len(texts)} training texts that stand in one another, so none stays beside a validation text; "
            "expected different texts. Remove duplicates, or give a validation split."
        )
    return dataset.select(train), dataset.select(validation)


def normalise(text: str) -> str:
    """The form in which texts are compared: lower case, single blanks.

    >>> normalise(" A fine  Film ")
    'a fine film'
    """
    return " ".join(text.lower().split())


def containers(needles: list[str], haystacks: list[str]) -> list[set[str]]:
    """The texts of `haystacks` in which each needle stands, word for word and without a gap.

    Time grows with the words of the haystacks, not with their square.

    Args:
        needles: normalised texts.
        haystacks: normalised texts; a needle that is among them contains itself.

    Returns:
        a set of haystacks per needle.

    >>> [sorted(found) for found in containers(["a fine", "fine a", "film"], ["a fine film", "film"])]
    [['a fine film'], [], ['a fine film', 'film']]
    """
    lengths = defaultdict(set)  # first words of a needle -> numbers of words of the needles that begin so
    found: dict[str, set[str]] = {text: set() for text in needles}
    for text in found:
        words = text.split(" ")
        lengths[" ".join(words[:_KEY_WORDS])].add(len(words))
    unique = set(haystacks)
    for haystack in tqdm(unique, desc="Searching texts in others", disable=len(unique) < 100_000):
        words = haystack.split(" ")
        for start in range(len(words)):
            for size in range(1, min(_KEY_WORDS, len(words) - start) + 1):
                for length in lengths.get(" ".join(words[start : start + size]), ()):
                    if size < _KEY_WORDS and length > size:
                        continue  # a longer needle with the same first words is looked up by more of them
                    span = " ".join(words[start : start + length])
                    if span in found:
                        found[span].add(haystack)
    return [found[text] for text in needles]


def _load(dataset_name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    missing = (
        f"No data set found at {dataset_name!r}; expected a Hub id or a folder in the Hub's layout. Check the "
        "spelling, or download it once where there is a network."
    )
    path = Path(dataset_name).expanduser()
    if dataset_name.startswith((".", "/", "~")) and not path.is_dir():
        raise FileNotFoundError(missing)
    try:
        if path.is_dir():
            return load_dataset(str(path), config_name, cache_dir=_cache_dir(path))
        return load_dataset(dataset_name, config_name, revision=revision)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{missing} ({str(error).splitlines()[0]})") from error
    except (DatasetGenerationError, ValueError, StopIteration) as error:
        raise ValueError(
            f"{dataset_name} cannot be read ({error.__cause__ or error or 'an empty file'}); expected files with at "
            "least one row each, in the form that its README.md declares. Correct the file."
        ) from error


def _cache_dir(folder: Path) -> str:
    """A cache of its own for each state of a local folder.

    datasets 5.2 does not look at the data files of a folder whose README.md names them, and would load the rows of
    before an edit.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(datasets.config.HF_DATASETS_CACHE / "bertcls" / Hasher.hash(state))


def _find_column(split: Dataset, given: str | None, usual: tuple, flag: str, where: str = "the data") -> str:
    columns = split.column_names
    if given is None:
        found = [name for name in usual if name in columns]
        if found:
            return found[0]
    elif given in columns:
        return given
    raise ValueError(
        f"Found the columns {', '.join(columns)} in {where}; expected {given or ' or '.join(usual)}. "
        f"Name the right one with {flag}."
    )


def _label_names(split: Dataset, column: str) -> list[str]:
    """Class names of the training split: those of its `ClassLabel`, otherwise its labels in natural order."""
    feature = split.features[column]
    if isinstance(feature, ClassLabel):
        return feature.names
    if not isinstance(feature, Value) or feature.dtype.startswith("float"):
        raise ValueError(
            f"Found labels of type {getattr(feature, 'dtype', feature)} in column {column}; expected class names or "
            "whole numbers. Fill empty cells, which turn whole numbers into fractions, or name another --label_column."
        )
    labels = {str(label).strip() for label in split[column][:] if label is not None} - {"-1"}
    return sorted(labels, key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _label_ids(split: Dataset, column: str, names: list[str], split_name: str) -> np.ndarray:
    """Class numbers `[rows]`, -1 where the label is hidden or empty."""
    if isinstance(split.features[column], ClassLabel):
        number = {str(i): i for i in range(len(names))}
    else:
        number = {name: i for i, name in enumerate(names)}
    number |= {"-1": -1, None: -1}
    keys = [None if label is None else str(label).strip() for label in split[column][:]]
    outside = sorted({key for key in keys if key not in number})
    if outside:
        raise ValueError(
            f"Found the labels {', '.join(outside[:5])} in {split_name}; expected one of {', '.join(names)}. Correct "
            "the rows, or add the class to the training split."
        )
    return np.array([number[key] for key in keys], dtype=np.int64)


def _check_texts(split: Dataset, column: str, split_name: str) -> None:
    feature = split.features[column]
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        raise ValueError(
            f"Column {column} of {split_name} holds {getattr(feature, 'dtype', feature)}, expected strings. Name "
            "another --text_column, or store the texts as strings."
        )
    empty = [row for row, text in enumerate(split[column][:]) if text is None]
    if empty:
        raise ValueError(
            f"Column {column} of {split_name} has {len(empty)} rows without a text, the first at row {empty[0]}; "
            "expected a string in every row. Remove or fill them."
        )
