"""From any source to splits with the columns text, [text_pair,] label and example_id."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, List, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher
from sklearn.datasets import fetch_20newsgroups
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm
from yaml import YAMLError

from bertcls.files import (
    ROWS_AT_A_TIME,
    SUFFIXES,
    columns_to_table,
    decode,
    file_format,
    in_slices,
    on_disk,
    read_table,
    refused,
    stream_table,
    warn,
    with_refused,
)
from bertcls.formats import DRAWN
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.text import comparison_key

TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels")
_SPLIT_OF = {"valid": "validation", "val": "validation", "dev": "validation"}
_SPLITS = ("train", "validation", "test")
_KEY_WORDS = 4  # words by which a needle is looked up
MIN_WORDS = 4  # a shorter text stands in others by chance
_RARE = 10  # a label with fewer texts cannot keep its share in an 8:1:1 split
_MANY_LABELS = 50  # more names than this in half of all rows are no classes
_TRUTH = {"0", "1", "0.0", "1.0", "False", "True"}  # what a vector says of each label
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def load_splits(
    source: str | pd.DataFrame | Dataset | DatasetDict | None = None,
    config_name: str | None = None,
    *,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_delimiter: str | None = None,
    problem_type: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    revision: str | None = None,
    train_split: str | None = "train",
    labelled: bool = True,
    keep_missing: bool = False,
) -> DatasetDict:
    """Loads a data set and brings it into the form that everything else expects.

    Args:
        source: Hub id; a file (see `bertcls.files.read_table`); a folder in the Hub's layout, with the files train,
            validation and test, or with a folder of txt files per class; or a DataFrame or data set in memory.
        config_name: configuration (subset) of the data set.
        train_file, validation_file, test_file: files or folders of classes, in place of the splits of `source`.
        text_column: column with the texts; `None` takes the first of `TEXT_COLUMNS` that is there.
        text_pair_column: column with the second texts of pairs; `None` for single texts.
        label_column: column with the labels; `None` takes the first of `LABEL_COLUMNS` that is there.
        label_delimiter: character between the labels of a cell, which makes the task multi-label.
        problem_type: `None` reads it from the labels: lists are multi-label, fractions a regression, all else classes.
        encoding, delimiter: of the files; `None` detects them.
        revision: Hub revision.
        train_split: the split of the source that becomes train, and its own train is left out then; `None` takes
            `unsupervised`, as IMDB has it, where there is one.
        labelled: `False` for texts alone; no column `label` is made then.
        keep_missing: leave missing texts in, for an audit.

    Returns:
        The splits train, validation and test, as far as they exist, each with `text` and, for pairs, `text_pair`
        (strings), `label` (a `ClassLabel`, a list of them, or a float32) and `example_id` (int64, counted on across
        the splits). A test split whose labels are all hidden (-1 or empty) is left out.

    Raises:
        FileNotFoundError: no such data set.
        ValueError: no train split, a missing column, an empty split, texts that are not strings, rows without a label
            or labels outside the classes.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {name: path for name, path in files.items() if path}
    raw, where = _load(source, files, config_name, revision, encoding, delimiter)
    if train_split is None:
        train_split = "unsupervised" if "unsupervised" in raw else "train"
    if train_split not in raw:
        raise ValueError(
            f"Found the splits {', '.join(raw)} in {where}; expected one named {train_split}. Rename a split or file."
        )
    raw["train"] = raw.pop(train_split)
    splits = {name: raw[name] for name in _SPLITS if name in raw}
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"The {name} split of {where} has 0 rows; expected at least 1. Check the file.")
    text_column = _find_column(splits["train"], text_column, TEXT_COLUMNS, "--text_column")
    texts = {text_column: "text"} | ({} if text_pair_column is None else {text_pair_column: "text_pair"})
    flags = {text_column: "--text_column", text_pair_column: "--text_pair_column"}
    if labelled:
        label_column = _find_column(splits["train"], label_column, LABEL_COLUMNS, "--label_column")
        flags[label_column] = "--label_column"
        if "test" in splits and label_column not in {*splits["test"].column_names, *refused(splits["test"])}:
            warn(f"The test split of {where} has no column {label_column}; it is left out.")
            del splits["test"]
    if len({*texts, label_column} if labelled else texts) < 1 + labelled + (text_pair_column is not None):
        raise ValueError(
            f"Found the columns {', '.join(map(str, flags))} for texts and labels; expected different ones. Correct "
            "--text_column, --text_pair_column or --label_column."
        )
    for name, split in splits.items():
        for column in flags.keys() - {None}:
            _find_column(split, column, (), flags[column], where=f"the {name} split")
    if labelled:
        problem_type = _problem_type(splits["train"], label_column, label_delimiter, problem_type)
        names = _label_names(splits["train"], label_column, label_delimiter, problem_type)
        of_classes = {SINGLE_LABEL: ClassLabel(names=names), MULTI_LABEL: List(ClassLabel(names=names))}
        feature = of_classes.get(problem_type, Value("float32"))

    code = [Path(__file__).with_name(f"{module}.py").read_bytes() for module in ("text", "tokenization", "mlm")]
    result, first_id = DatasetDict(), 0
    for name, split in splits.items():
        form = split.select_columns(list(texts)).rename_columns(texts)
        for column, new in texts.items():
            _check_texts(form, new, column, name, keep_missing=keep_missing)
            if form.features[new].dtype != "string":  # csv gives large_string
                form = form.cast_column(new, Value("string"))
        if labelled:
            labels, unlabelled = _label_values(split, label_column, label_delimiter, names, problem_type, name)
            if name == "test" and (unlabelled.all() or problem_type == MULTI_LABEL and not any(labels.to_pylist())):
                continue  # hidden, as in GLUE
            _refuse_unlabelled(unlabelled, name)
            form = form.add_column("label", labels, feature=feature)
        # datasets caches map() by the name of a function of a module: its fingerprint must see an edit of ours
        fingerprint = Hasher.hash([form._fingerprint, first_id, code])
        ids = np.arange(first_id, first_id + len(split))
        result[name] = form.add_column("example_id", ids, new_fingerprint=fingerprint)
        first_id += len(split)
    return result


def stream_rows(
    source: str,
    config_name: str | None = None,
    *,
    split: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    id_column: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    rows: int = 4096,
) -> Callable[[], Iterator[pa.Table]]:
    """Texts of any source that `load_splits` reads, without labels, in memory that does not grow with their number.

    Files and folders of classes are read piece by piece. A data set of the Hub, or a folder in its layout, is read
    from the copy that datasets makes on disk, or with `streaming` without one.

    Args:
        source: as in `load_splits`, but for data in memory.
        config_name: configuration (subset) of the data set.
        split: its split; `None` where there is but one. A file has none.
        text_column, text_pair_column: as in `load_splits`.
        id_column: column with what names a row; `None` counts the rows from 0.
        encoding, delimiter: of the files; `None` detects them.
        revision: Hub revision.
        streaming: keep no copy of a data set on disk.
        rows: of a table.

    Returns:
        a function that opens the source and gives its rows in order, in tables of `rows` rows, the last one shorter,
        with the columns `id`, `text` and, for pairs, `text_pair`. A missing text is null.

    Raises:
        FileNotFoundError: no such source.
        ValueError: several splits, a missing column, or texts that are not strings. What is wrong with a later row is
            raised when it is reached.
    """
    tables, where = _stream(source, config_name, split, encoding, delimiter, revision, streaming)
    first = next(tables(), pa.table({}))
    if first.num_rows == 0:
        raise ValueError(f"Found no rows in {where}; expected at least 1. Check the file.")
    shown = with_refused(Dataset(first), first)
    columns = {"text": _find_column(shown, text_column, TEXT_COLUMNS, "--text_column", where)}
    if text_pair_column is not None:
        columns["text_pair"] = _find_column(shown, text_pair_column, (), "--text_pair_column", where)
    if columns.get("text_pair") == columns["text"]:
        raise ValueError(
            f"Found the column {columns['text']} for both texts of a pair; expected different ones. Correct "
            "--text_column or --text_pair_column."
        )
    id_type = pa.int64()
    if id_column is not None:
        columns["id"] = _find_column(shown, id_column, (), "--id_column", where)
        id_type = first.schema.field(columns["id"]).type
    form = partial(_stream_form, columns=columns, id_type=id_type, where=where)
    form(first, first_row=0)

    def open_rows() -> Iterator[pa.Table]:
        done, held, size = 0, [], 0
        for table in tables(sorted(set(columns.values()))):
            held.append(form(table, first_row=done))
            done, size = done + len(table), size + len(table)
            while size >= rows:
                whole = pa.concat_tables(held)
                yield whole.slice(0, rows)
                held, size = [whole.slice(rows)], size - rows
        if size:
            yield pa.concat_tables(held)

    return open_rows


def _stream(
    source: str,
    config_name: str | None,
    split: str | None,
    encoding: str | None,
    delimiter: str | None,
    revision: str | None,
    streaming: bool,
) -> tuple[Callable[..., Iterator[pa.Table]], str]:
    """A function that gives the tables of a split, of given columns or all, and what to call it in a message."""
    path = Path(source).expanduser()
    found = {None: path} if path.is_file() else {}
    if path.is_dir() and not _declares_files(path):
        found = _named_files(path) or ({None: path} if _class_folders(path) else {})
    if not found:
        loaded = _load_declared(source, config_name, revision, streaming=streaming)
        found = {_SPLIT_OF.get(name, name): dataset for name, dataset in loaded.items()}
    wanted = _SPLIT_OF.get(split, split)
    if wanted is None and len(found) == 1:
        wanted = next(iter(found))
    if wanted not in found:
        names = ", ".join(name for name in found if name) or "no splits"
        fix = "Leave out --split." if None in found else "Name one with --split."
        raise ValueError(f"Found {names} in {source}{f', not {split}' if split else ''}; expected one split. {fix}")
    data, where = found[wanted], source if wanted is None else f"{wanted} of {source}"
    if not isinstance(data, Path):
        return partial(_dataset_tables, data), where
    if data.is_dir():
        return partial(_class_folder_tables, data, encoding), where
    return stream_table(data, encoding=encoding, delimiter=delimiter), where


def _dataset_tables(dataset, columns: list[str] | None = None) -> Iterator[pa.Table]:
    yield from (dataset.select_columns(columns) if columns else dataset).with_format("arrow").iter(ROWS_AT_A_TIME)


def _class_folder_tables(folder: Path, encoding: str | None, columns: list[str] | None = None) -> Iterator[pa.Table]:
    files = [(file, name) for name, files in _class_folders(folder).items() for file in files]
    rows = ({"file": str(f.relative_to(folder)), "text": decode(f.read_bytes(), f, encoding)} for f, _ in files)
    for part in in_slices(rows, lambda row: len(row["text"])):
        yield pa.Table.from_pylist(part)


def _stream_form(table: pa.Table, *, columns: dict[str, str], id_type: pa.DataType, where: str, first_row: int):
    """The columns `id`, `text` and `text_pair` of a table, of one type each in all tables of a source."""
    not_held = refused(with_refused(Dataset(table), table))
    arrays = {"id": pa.array(range(first_row, first_row + len(table)), pa.int64())}
    for new, name in columns.items():
        if name in not_held:
            raise ValueError(not_held[name])
        column = table[name] if name in table.column_names else pa.nulls(len(table))
        wanted, kind = id_type if new == "id" else pa.string(), column.type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        if not (kind in (wanted, pa.null()) or wanted == pa.string() and any(check(kind) for check in strings)):
            raise ValueError(
                f"Column {name} of {where} holds {kind} in row {first_row} and on, expected {wanted}. Name another "
                f"--{new}_column, or store {'one type in all rows' if new == 'id' else 'the texts as strings'}."
            )
        arrays[new] = column.cast(wanted)
    return pa.table(arrays)


def check_task(splits: DatasetDict, *, pairs: bool = False) -> None:
    """Refuses data that a recipe of single-label texts (or pairs) cannot train on.

    Raises:
        ValueError: several labels a row or numbers as labels; pairs where texts are expected, or texts for pairs.
    """
    found = problem_type_of(splits["train"])
    if found != SINGLE_LABEL:
        raise ValueError(
            f"Found labels of a {found} task; expected one class a row in this recipe. Use recipes/csv_finetune.py, "
            "or name another --label_column."
        )
    if ("text_pair" in splits["train"].column_names) != pairs:
        raise ValueError(
            f"Found {'single texts' if pairs else 'pairs of texts'}; expected {'pairs' if pairs else 'single texts'} "
            f"in this recipe. {'Give' if pairs else 'Leave out'} --text_pair_column, or use recipes/csv_finetune.py."
        )


def load_newsgroups(categories: list[str], remove: list[str]) -> DatasetDict:
    """20 Newsgroups by date: train and test, with group names as labels.

    Args:
        categories: names of groups, or `["all"]`.
        remove: what scikit-learn takes out of a post: `headers`, `footers`, `quotes`; or `["none"]`.

    Raises:
        FileNotFoundError: not in scikit-learn's data folder (`SCIKIT_LEARN_DATA`), and no network.
        ValueError: an unknown group or part.
    """
    options = {
        "categories": None if categories == ["all"] else categories,
        "remove": () if remove == ["none"] else tuple(remove),
        "shuffle": False,
    }
    if set(options["remove"]) - {"headers", "footers", "quotes"}:
        raise ValueError(
            f"Found --remove {' '.join(remove)}; expected some of headers, footers and quotes, or none alone."
        )
    try:
        parts = {name: fetch_20newsgroups(subset=name, **options) for name in ("train", "test")}
    except OSError as error:
        raise FileNotFoundError(
            f"20 Newsgroups could not be loaded ({error}); expected it in scikit-learn's data folder or a network. "
            "Set SCIKIT_LEARN_DATA to a folder that holds it."
        ) from error
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Found --categories {' '.join(categories)}; expected names of groups such as sci.med, or all ({error})."
        ) from error
    splits = DatasetDict()
    for name, part in parts.items():
        rows = Dataset.from_dict({"text": part.data, "label": part.target.tolist()})
        splits[name] = rows.cast_column("label", ClassLabel(names=list(part.target_names)))
    return splits


def problem_type_of(dataset: Dataset) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, by the type of `label`."""
    feature = dataset.features["label"]
    if isinstance(feature, ClassLabel):
        return SINGLE_LABEL
    return MULTI_LABEL if isinstance(feature, List) else REGRESSION


def label_names_of(dataset: Dataset) -> list[str]:
    """Names of the classes in the order of their numbers; of a regression, the one name `value`."""
    feature = dataset.features["label"]
    feature = feature.feature if isinstance(feature, List) else feature
    return list(feature.names) if isinstance(feature, ClassLabel) else ["value"]


def label_array(dataset: Dataset) -> np.ndarray:
    """Labels for metrics: class numbers `[rows]`, 0 and 1 `[rows, num_labels]` for multi-label, or floats `[rows]`."""
    labels = dataset["label"][:]
    if problem_type_of(dataset) != MULTI_LABEL:
        return np.array(labels)
    result = np.zeros((len(labels), len(label_names_of(dataset))), dtype=np.int64)
    for row, numbers in enumerate(labels):
        result[row, numbers] = 1
    return result


def label_shares(dataset: Dataset) -> dict[str, float]:
    """Share of rows per label name; in a multi-label task these need not add up to 1.

    >>> rows = Dataset.from_dict({"label": [0, 1, 1, 1]}).cast_column("label", ClassLabel(names=["no", "yes"]))
    >>> label_shares(rows)
    {'no': 0.25, 'yes': 0.75}
    """
    names, labels = label_names_of(dataset), label_array(dataset)
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names))
    return {name: float(count / len(dataset)) for name, count in zip(names, counts)}


def balanced_class_weights(labels: np.ndarray | list, num_labels: int) -> list[float]:
    """Weights inverse to the class counts, with mean 1 over the rows, so that the learning rate keeps its meaning.

    Args:
        labels: class numbers `[rows]`, or 0 and 1 `[rows, num_labels]`: then the mean is over the labels that are set.
        num_labels: number of classes.

    Raises:
        ValueError: a class without a row, or labels of a regression.

    >>> balanced_class_weights([0, 0, 0, 1], num_labels=2)
    [0.6666666666666666, 2.0]
    """
    labels = np.asarray(labels)
    if labels.dtype.kind == "f":
        raise ValueError(
            "Found --class_weights balanced with a regression, which has no classes; expected none. Leave it out."
        )
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=num_labels)
    if (counts == 0).any():
        raise ValueError(
            f"Class number {int(np.argmin(counts))} has 0 training rows; expected at least 1 for a balanced weight. "
            "Add rows, or use --class_weights none."
        )
    return (counts.sum() / (num_labels * counts)).tolist()


def draw_rows(dataset: Dataset, rows: int | None, *, seed: int) -> Dataset:
    """A random draw of `rows` rows that keeps the label shares; the whole data set for `None` or where it has no more.

    Shares of sets of several labels are kept only where there are as many rows as sets.

    Raises:
        ValueError: fewer rows than labels.
    """
    if rows is None or rows >= len(dataset):
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


def split_dataset(dataset: Dataset, ratio: str, *, seed: int = 42, together: bool = True) -> DatasetDict:
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
    ratio: str | None = None,
    max_samples: int | None = None,
    seed: int = 42,
    phrases: bool = False,
) -> tuple[DatasetDict, str]:
    """train, validation to choose the model by, and test to report; never the same rows for two of them.

    What is missing is made, with equal label shares and equal texts on one side, and said.

    Args:
        splits: as `load_splits` gives them.
        ratio: join train and validation and split them anew, such as `8:1:1`; without it, what is there is kept. Where
            only validation is labelled (GLUE), it is what is reported and the rows to choose by are held out of train;
            likewise where there is only test. A lone train split is split 8:1:1.
        max_samples: with `ratio`, the first rows of the joined data.
        seed: of the draws.
        phrases: training rows are parts of one another, as in SST-2: hold out whole texts with all their parts.

    Returns:
        the three splits, and the name of the reported one in the source, or `DRAWN`.

    Raises:
        ValueError: as `split_dataset`.
    """
    if ratio is not None:
        joined = concatenate_datasets([splits[name] for name in ("train", "validation") if name in splits])
        joined = joined.select(range(min(max_samples or len(joined), len(joined))))
        if "test" in splits:
            warn(
                f"--split {ratio} reports rows drawn from train and validation: the {len(splits['test'])} labelled "
                "rows of the test split are not used. Without --split they are the reported ones."
            )
        return split_dataset(joined, ratio, seed=seed), DRAWN
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


def hold_out(dataset: Dataset, *, rows: int, seed: int = 42) -> tuple[Dataset, Dataset]:
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
    dataset: Dataset, *, share: float = 0.05, minimum: int = 500, seed: int = 42
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


def _load(
    source,
    files: dict[str, str],
    config_name: str | None,
    revision: str | None,
    encoding: str | None,
    delimiter: str | None,
) -> tuple[dict[str, Dataset], str]:
    """Splits as they are in the source, those of `files` in their place, and what to call it all in a message."""
    if source is None and not files:
        raise ValueError("Found no data; expected a data set or a file. Give --dataset_name or --train_file.")
    raw, where = (
        ({}, ", ".join(map(str, files.values())))
        if source is None
        else _load_source(source, config_name, revision, encoding, delimiter)
    )
    renamed = {name: _SPLIT_OF.get(name, name) for name in raw}
    if len(set(renamed.values())) < len(raw):
        raise ValueError(
            f"Found the splits {', '.join(raw)} in {where}; expected one for validation. Remove one, or rename it."
        )
    raw = {renamed[name]: split for name, split in raw.items()}
    unused = sorted(set(raw) - {*_SPLITS, "unsupervised"})
    if unused and "train" in raw:
        warn(f"The splits {', '.join(unused)} of {where} are not used; train, validation and test are.")
    return raw | {name: _read(Path(path).expanduser(), encoding, delimiter) for name, path in files.items()}, where


def _load_source(
    source, config_name: str | None, revision: str | None, encoding: str | None, delimiter: str | None
) -> tuple[dict[str, Dataset], str]:
    if isinstance(source, DatasetDict):
        return dict(source), "the data set"
    if isinstance(source, Dataset):
        return {"train": source}, "the data set"
    if isinstance(source, pd.DataFrame):
        twice = source.columns[source.columns.duplicated()]
        if len(twice):
            raise ValueError(
                f"Found the column {twice[0]!r} twice in the DataFrame; expected different names. Rename one."
            )
        columns = {str(name): _plain(source[name]) for name in source}
        table = columns_to_table(columns, "the DataFrame")
        return {"train": with_refused(Dataset(table), table)}, "the DataFrame"
    source = str(source)
    path = Path(source).expanduser()
    if path.is_file():
        return {"train": _read(path, encoding, delimiter)}, source
    if path.is_dir() and not _declares_files(path):
        named = _named_files(path) or ({"train": path} if _class_folders(path) else {})
        if named:
            return {name: _read(file, encoding, delimiter) for name, file in named.items()}, source
    return _load_declared(source, config_name, revision), source


def _load_declared(source: str, config_name: str | None, revision: str | None, *, streaming: bool = False):
    """The splits of a Hub id, or of a folder in the Hub's layout, as datasets loads them."""
    path = Path(source).expanduser()
    missing = (
        f"No data set found at {source!r}; expected a Hub id, a file ({', '.join(SUFFIXES)}) or a folder in the Hub's "
        "layout. Check the spelling, or download it once where there is a network."
    )
    if not path.is_dir() and (source.startswith((".", "/", "~")) or file_format(source)):
        raise FileNotFoundError(missing)
    try:
        if path.is_dir():
            return load_dataset(str(path), config_name, cache_dir=_cache_dir(path), streaming=streaming)
        return load_dataset(source, config_name, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{missing} ({str(error).splitlines()[0]})") from error
    except (DatasetGenerationError, ValueError, StopIteration, RuntimeError, YAMLError) as error:
        raise ValueError(
            f"{source} cannot be read ({error.__cause__ or error or 'an empty file'}); expected files with at least "
            "one row each, in the form that its README.md declares. Correct the file."
        ) from error


def _declares_files(folder: Path) -> bool:
    """Whether a README.md says which files make which split, in the Hub's way."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    return head.startswith("---") and ("configs:" in head or "dataset_info:" in head)


def _plain(column: pd.Series) -> list:
    """Values of a column of a DataFrame, missing ones as None."""
    return [None if missing is True else value for value, missing in zip(column.tolist(), column.isna().tolist())]


def _read(path: Path, encoding: str | None, delimiter: str | None) -> Dataset:
    """A file, or a folder with a folder of txt files per class."""
    if not path.is_dir():
        return read_table(path, encoding=encoding, delimiter=delimiter)
    folders = _class_folders(path)
    if not folders:
        raise ValueError(f"{path} is a folder without classes; expected a file, or a folder of txt files per class.")
    rows = [(file, name) for name, files in folders.items() for file in files]
    texts = [decode(file.read_bytes(), file, encoding) for file, _ in rows]
    table = columns_to_table({"text": texts, "label": [name for _, name in rows]}, path)
    return on_disk(table, [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file, _ in rows] + [encoding])


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """txt files per class of a folder of folders; without `unsup`, the unlabelled texts of IMDB's archive."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: sorted(path.glob("*.txt"), key=lambda file: _natural(file.name)) for path in inside}
    files.pop("unsup", None)
    return files if files and all(files.values()) else {}


def _named_files(folder: Path) -> dict[str, Path]:
    """Files or class folders of a folder that are named after a split."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0].lower()
        name = _SPLIT_OF.get(name, name)
        if name in _SPLITS and (_class_folders(path) if path.is_dir() else file_format(path)):
            if name in found:
                raise ValueError(
                    f"Found {found[name].name} and {path.name} in {folder}; expected one file for the {name} split. "
                    "Remove one, or name it with --train_file, --validation_file or --test_file."
                )
            found[name] = path
    return found


def _cache_dir(folder: Path) -> str:
    """A cache of its own for each state of a local folder.

    datasets 5.2 does not look at the data files of a folder whose README.md names them, and would load the rows of
    before an edit.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(datasets.config.HF_DATASETS_CACHE / "bertcls" / Hasher.hash(state))


def _find_column(split: Dataset, given: str | None, usual: tuple, flag: str, where: str = "the data") -> str:
    columns, not_held = split.column_names, refused(split)
    for name in usual if given is None else [given]:
        if name in columns:
            return name
        if name in not_held:
            raise ValueError(not_held[name])
    raise ValueError(
        f"Found the columns {', '.join(columns) or 'none'} in {where}; expected {given or ' or '.join(usual)}. "
        f"Name the right one with {flag}, or the character between columns with --delimiter."
    )


def _problem_type(split: Dataset, column: str, delimiter: str | None, given: str | None) -> str:
    """The kind of task that the labels of the training split make."""
    feature = split.features[column]
    known = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
    if given is not None and given not in known:
        raise ValueError(f"Found --problem_type {given}; expected one of {', '.join(known)}.")
    is_list = isinstance(feature, List | datasets.LargeList)
    if not is_list and not isinstance(feature, ClassLabel | Value):
        raise ValueError(
            f"Found labels of type {feature} in column {column}; expected names, numbers or lists of names. Name "
            "another --label_column."
        )
    if is_list or delimiter is not None:
        if given not in (None, MULTI_LABEL):
            raise ValueError(
                f"Found lists of labels in column {column} with --problem_type {given}; expected one label a row. "
                "Leave the option out for a multi-label task, or correct the column."
            )
        if delimiter is not None and not (isinstance(feature, Value) and "string" in feature.dtype):
            raise ValueError(
                f"Found --label_delimiter {delimiter!r} with labels of type {getattr(feature, 'dtype', feature)}; "
                "expected strings to be cut at it. Leave it out."
            )
        return MULTI_LABEL
    if given == MULTI_LABEL:
        raise ValueError(
            f"Found one label a row in column {column} with --problem_type {MULTI_LABEL}; expected lists. Name the "
            "character between labels with --label_delimiter."
        )
    if given is not None or isinstance(feature, ClassLabel):
        return given or SINGLE_LABEL
    labels = [label for label in split[column][:] if label is not None]
    if feature.dtype.startswith("float"):
        numbers = labels
    else:
        decimal = all(_NUMBER.fullmatch(str(label)) for label in labels) and any("." in str(label) for label in labels)
        numbers = [float(label) for label in labels] if decimal and labels else None
    if numbers is None:
        return SINGLE_LABEL
    if all(float(number).is_integer() for number in numbers):
        raise ValueError(
            f"Found the whole numbers with decimal places {sorted(set(numbers))[:3]} as labels in column {column}; "
            f"expected classes or values. Say which: --problem_type {SINGLE_LABEL} or --problem_type {REGRESSION}."
        )
    return REGRESSION


def _keys(label, delimiter: str | None, problem_type: str) -> list[str] | None:
    """Names of the labels of a row as they are written; `None` where there is no label."""
    if problem_type == MULTI_LABEL:
        if delimiter is not None:
            return [part.strip() for part in (label or "").split(delimiter) if part.strip()]  # an empty cell: none
        return None if label is None else [str(part).strip() for part in label]
    if label is None or label != label or str(label).strip() in ("", "-1"):
        return None
    if isinstance(label, float) or _NUMBER.fullmatch(str(label)) and "." in str(label):
        return [str(int(float(label)))] if float(label).is_integer() else [str(label)]
    return [str(label).strip()]


def _label_names(split: Dataset, column: str, delimiter: str | None, problem_type: str) -> list[str]:
    """Class names of the training split: those of its `ClassLabel`, otherwise its labels in natural order."""
    feature = split.features[column]
    feature = getattr(feature, "feature", feature)
    if problem_type == REGRESSION:
        return ["value"]
    labels = split[column][:]
    keys = [_keys(label, delimiter, problem_type) for label in labels]
    _refuse_unlabelled(np.array([row is None for row in keys]), "train")
    seen = sorted({key for row in keys for key in row}, key=_natural)
    names = feature.names if isinstance(feature, ClassLabel) else seen
    lengths = {len(row) for row in keys}
    if names is seen and len(lengths) == 1 and min(lengths) > 1 and {*seen} <= _TRUTH:
        raise ValueError(
            f"Found the vector {', '.join(keys[0][:5])} in column {column}; expected lists of label names, not "
            "vectors of 0 and 1. Write the names of the labels that are 1."
        )
    raw = {str(label) for label in labels if isinstance(label, str)}
    merged = sorted(label for label in raw if label != label.strip() and label.strip() in raw)
    if merged:
        warn(f"Labels that differ in blanks at their ends are taken as one: {', '.join(map(repr, merged))}")
    if len(seen) < 2:
        raise ValueError(
            f"Found {'only the label ' + seen[0] if seen else 'no label'} in column {column} of train; "
            "expected at least two classes. Name another --label_column, or add rows of other classes."
        )
    if len(names) > max(_MANY_LABELS, len(split) / 2):
        raise ValueError(
            f"Found {len(names)} different labels in {len(split)} rows of column {column}; expected classes with "
            "several rows each. Name another --label_column, or give --problem_type regression for numbers."
        )
    return list(names)


def _refuse_unlabelled(unlabelled: np.ndarray, split_name: str) -> None:
    if unlabelled.any():
        raise ValueError(
            f"Found {unlabelled.sum()} unlabelled rows (-1 or empty) in {split_name}, the first at row "
            f"{int(np.argmax(unlabelled))}; expected a label in every row. Remove them, name another --label_column, "
            "or write -1 as a name where it is a class."
        )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _label_values(
    split: Dataset, column: str, delimiter: str | None, names: list[str], problem_type: str, split_name: str
) -> tuple[pa.Array, np.ndarray]:
    """Labels as they are stored, and where they are missing `[rows]`."""
    feature = split.features[column]
    labels = split[column][:]
    if problem_type == REGRESSION:
        return _values(labels, column, split_name)
    number = {name: i for i, name in enumerate(names)}
    own = getattr(feature, "feature", feature)
    if isinstance(own, ClassLabel):  # its numbers, which may stand for other names than in train
        number = {str(i): number.get(name) for i, name in enumerate(own.names)}
        missing = [own.names[int(key)] for key, value in number.items() if value is None]
        if missing:
            raise ValueError(
                f"Found the class {missing[0]} in {split_name}; expected those of train, {', '.join(names[:20])}. "
                "Declare the same classes in all splits."
            )
    if isinstance(feature, List | datasets.LargeList) != (problem_type == MULTI_LABEL) and delimiter is None:
        raise ValueError(
            f"Found labels of another type in {split_name} than in train ({feature}); expected the same. Correct the "
            "column."
        )
    keys = [_keys(label, delimiter, problem_type) for label in labels]
    outside = sorted({key for row in keys for key in row or () if key not in number})
    if outside:
        raise ValueError(
            f"Found the labels {', '.join(outside[:5])} in {split_name}; expected one of {', '.join(names[:20])}. "
            "Correct the rows, or add the class to the training split."
        )
    missing = np.array([row is None for row in keys])
    if problem_type == MULTI_LABEL:
        twice = [row for row, found in enumerate(keys) if found and len(set(found)) < len(found)]
        if twice:
            raise ValueError(
                f"Found the same label twice in row {twice[0]} of {split_name} ({keys[twice[0]]}); expected lists of "
                "different names, not vectors of 0 and 1. Write the names of the labels."
            )
        return pa.array([sorted({number[key] for key in row or ()}) for row in keys], pa.list_(pa.int64())), missing
    return pa.array([-1 if row is None else number[row[0]] for row in keys], pa.int64()), missing


def _values(labels: list, column: str, split_name: str) -> tuple[pa.Array, np.ndarray]:
    """The labels of a regression."""
    numbers = np.full(len(labels), np.nan)
    for row, label in enumerate(labels):
        if label is not None and label != "":
            try:
                numbers[row] = float(label)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"Found the label {label!r} in row {row} of {split_name}; expected a number, since column "
                    f"{column} makes a regression. Correct it, or give --problem_type {SINGLE_LABEL}."
                ) from error
    if split_name == "train" and len(set(numbers.tolist())) == 1:
        raise ValueError(
            f"Found only the label {numbers[0]} in column {column} of train; expected different values. Name another "
            "--label_column."
        )
    if np.isinf(numbers).any():
        raise ValueError(
            f"Found an infinite label in row {int(np.isinf(numbers).argmax())} of {split_name}; expected finite "
            "numbers. Correct it."
        )
    return pa.array(numbers, pa.float32()), np.isnan(numbers)


def _check_texts(split: Dataset, column: str, given: str, split_name: str, *, keep_missing: bool) -> None:
    """Refuses what is no text; `given` is the name of the column in the source."""
    feature = split.features[column]
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        raise ValueError(
            f"Column {given} of {split_name} holds {getattr(feature, 'dtype', feature)}, expected strings. Name "
            "another --text_column, or store the texts as strings."
        )
    texts = split[column][:]
    missing = [row for row, text in enumerate(texts) if text is None]
    if missing and not keep_missing:
        raise ValueError(
            f"Column {given} of {split_name} has {len(missing)} rows without a text, the first at row {missing[0]}; "
            "expected a string in every row. Remove or fill them."
        )
    if split_name == "train" and all(text is None or _NUMBER.fullmatch(text) for text in texts):
        raise ValueError(
            f"Column {given} of {split_name} holds nothing but numbers, such as {texts[0]}; expected texts. Name "
            "another --text_column."
        )
