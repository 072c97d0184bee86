"""From any source to splits with the columns text, [text_pair,] label and example_id."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from datasets.fingerprint import Hasher
from sklearn.datasets import fetch_20newsgroups

from bertcls.data.folders import SPLIT_OF, SPLITS, class_folders, declares_files, load_declared, named_files, read_rows
from bertcls.data.labels import NUMBER, find_problem_type, label_values, names_in, refuse_unlabelled
from bertcls.data.tables import columns_to_table, refused, with_refused
from bertcls.modeling import MULTI_LABEL, SINGLE_LABEL
from bertcls.process import warn

TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels")
_MAPPED = ("text.py", "tokenization.py", "training/masking.py")  # modules whose functions are given to map()


def load_splits(
    source: str | pd.DataFrame | Dataset | DatasetDict | None = None,
    dataset_config_name: str | None = None,
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
        dataset_config_name: configuration (subset) of the data set.
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
    raw, where = _load(source, files, dataset_config_name, revision, encoding, delimiter)
    if train_split is None:
        train_split = "unsupervised" if "unsupervised" in raw else "train"
    if train_split not in raw:
        raise ValueError(
            f"Found the splits {', '.join(raw)} in {where}; expected one named {train_split}. Rename a split or file."
        )
    raw["train"] = raw.pop(train_split)
    splits = {name: raw[name] for name in SPLITS if name in raw}
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"The {name} split of {where} has 0 rows; expected at least 1. Check the file.")
    text_column = find_column(splits["train"], text_column, TEXT_COLUMNS, "--text_column")
    texts = {text_column: "text"} | ({} if text_pair_column is None else {text_pair_column: "text_pair"})
    flags = {text_column: "--text_column", text_pair_column: "--text_pair_column"}
    if labelled:
        label_column = find_column(splits["train"], label_column, LABEL_COLUMNS, "--label_column")
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
            find_column(split, column, (), flags[column], where=f"the {name} split")
    if labelled:
        problem_type = find_problem_type(splits["train"], label_column, label_delimiter, problem_type)
        names = names_in(splits["train"], label_column, label_delimiter, problem_type)
        of_classes = {SINGLE_LABEL: ClassLabel(names=names), MULTI_LABEL: List(ClassLabel(names=names))}
        feature = of_classes.get(problem_type, Value("float32"))

    code = [(Path(__file__).parents[1] / name).read_bytes() for name in _MAPPED]
    result, first_id = DatasetDict(), 0
    for name, split in splits.items():
        form = split.select_columns(list(texts)).rename_columns(texts)
        for column, new in texts.items():
            _check_texts(form, new, column, name, keep_missing=keep_missing)
            if form.features[new].dtype != "string":  # csv gives large_string
                form = form.cast_column(new, Value("string"))
        if labelled:
            labels, unlabelled = label_values(split, label_column, label_delimiter, names, problem_type, name)
            if name == "test" and (unlabelled.all() or problem_type == MULTI_LABEL and not any(labels.to_pylist())):
                continue  # hidden, as in GLUE
            refuse_unlabelled(unlabelled, name)
            form = form.add_column("label", labels, feature=feature)
        # datasets caches map() by the name of a function of a module: its fingerprint must see an edit of ours
        fingerprint = Hasher.hash([form._fingerprint, first_id, code])
        ids = np.arange(first_id, first_id + len(split))
        result[name] = form.add_column("example_id", ids, new_fingerprint=fingerprint)
        first_id += len(split)
    return result


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
    renamed = {name: SPLIT_OF.get(name, name) for name in raw}
    if len(set(renamed.values())) < len(raw):
        raise ValueError(
            f"Found the splits {', '.join(raw)} in {where}; expected one for validation. Remove one, or rename it."
        )
    raw = {renamed[name]: split for name, split in raw.items()}
    unused = sorted(set(raw) - {*SPLITS, "unsupervised"})
    if unused and "train" in raw:
        warn(f"The splits {', '.join(unused)} of {where} are not used; train, validation and test are.")
    return raw | {name: read_rows(Path(path).expanduser(), encoding, delimiter) for name, path in files.items()}, where


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
        return {"train": read_rows(path, encoding, delimiter)}, source
    if path.is_dir() and not declares_files(path):
        named = named_files(path) or ({"train": path} if class_folders(path) else {})
        if named:
            return {name: read_rows(file, encoding, delimiter) for name, file in named.items()}, source
    return load_declared(source, config_name, revision), source


def _plain(column: pd.Series) -> list:
    """Values of a column of a DataFrame, missing ones as None."""
    return [None if missing is True else value for value, missing in zip(column.tolist(), column.isna().tolist())]


def find_column(split: Dataset, given: str | None, usual: tuple, flag: str, where: str = "the data") -> str:
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
    if split_name == "train" and all(text is None or NUMBER.fullmatch(text) for text in texts):
        raise ValueError(
            f"Column {given} of {split_name} holds nothing but numbers, such as {texts[0]}; expected texts. Name "
            "another --text_column."
        )
