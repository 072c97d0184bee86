"""From any source to splits with the columns text, [text_pair,] label and example_id."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.fingerprint import Hasher

from bertcls.data.columns import is_missing, row_batches
from bertcls.data.folders import SPLITS, Files, find_splits
from bertcls.data.labels import NUMBER, LabelColumn, join_columns, read_lists
from bertcls.data.tables import USUAL, file_format, refusal
from bertcls.modeling import REGRESSION
from bertcls.process import code_digest, warn

STRINGS = (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def load_splits(
    source: str | pd.DataFrame | Dataset | DatasetDict | None = None,
    dataset_config_name: str | None = None,
    *,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | list[str] | None = None,
    id_column: str | None = None,
    label_delimiter: str | None = None,
    problem_type: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    revision: str | None = None,
    train_split: str | None = "train",
    labelled: bool = True,
    keep_missing: bool = False,
    drop_empty: bool = False,
    keep_unlabelled: bool = False,
    categories: list[str] | None = None,
    remove: list[str] | None = None,
) -> DatasetDict:
    """Loads a data set and brings it into the form that everything else expects.

    Args:
        source: Hub id; a file; a folder in the Hub's layout, with the files train, validation and test, with a folder
            of txt files per class, or of `save_to_disk`; `20newsgroups`; or a DataFrame or data set in memory.
        train_file, validation_file, test_file: files or folders of classes, in place of the splits of `source`.
        text_column, text_pair_column, label_column: `None` takes the first of the usual names, and no pairs. Several
            label columns of 0 and 1 make the task multi-label, each a label.
        id_column: becomes `id`, by which the report names a row; `None`: there is none.
        label_delimiter: character between the labels of a cell, which makes the task multi-label.
        problem_type: `None` reads it from the labels: lists are multi-label, fractions a regression, all else classes.
        encoding, delimiter: of the files; `None` detects them.
        train_split: what becomes train; `None`: `unsupervised`, as IMDB has it, where there is one.
        labelled: `False` for texts alone; no column `label` is made then.
        keep_missing: leave missing texts in, for an audit.
        drop_empty: leave out the rows with an empty text or without a label; the others keep their ids.
        keep_unlabelled: rows of train with a text and no label become a split `unlabelled`, without that column.
        categories, remove: as in `load_newsgroups`; `None` loads all groups and removes nothing.

    Returns:
        train, validation and test, as far as they exist, each with `text` and, for pairs, `text_pair` (strings),
        `label` (a `ClassLabel`, a list of them, or a float32) and `example_id` (int64, counted on across the splits).
        A test split whose labels are all hidden (-1 or empty) is left out.

    Raises:
        FileNotFoundError: no such data set.
        ValueError: what cannot be read as asked; with what was found and expected.
    """
    if isinstance(source, str) and source == "20newsgroups":
        source = load_newsgroups(categories or ["all"], remove or ["none"])
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {name: Files([Path(path).expanduser()]) for name, path in files.items() if path}
    if source is None and not files:
        raise ValueError("Found no data; expected a data set or a file. Give --dataset_name or --train_file.")
    splits = {} if source is None else find_splits(source, dataset_config_name, revision)
    paths = ", ".join(str(file.paths[0]) for file in files.values())
    where = source if isinstance(source, str | Path) else paths or "the data set"
    if "train" in splits and (unused := sorted({*splits} - {*SPLITS, "unsupervised"})):
        warn(f"The splits {', '.join(unused)} of {where} are not used; train, validation and test are.")
    splits |= files
    train_split = train_split or ("unsupervised" if "unsupervised" in splits else "train")
    if train_split not in splits:
        raise ValueError(f"Found the splits {', '.join(splits)} in {where}; expected one named {train_split}.")
    splits["train"] = splits.pop(train_split)
    splits = {name: splits[name] for name in SPLITS if name in splits}
    places, commas = dict.fromkeys(splits, "row {}".format), False
    if labelled:  # else they may be of other files beside these
        paths = [path for split in splits.values() if isinstance(split, Files) for path in split.paths]
        kinds = {file_format(path) for path in paths if path.exists()}
        idle = ["encoding"] if encoding and kinds <= {".parquet"} else []
        idle += ["delimiter"] if delimiter and not kinds & {".csv", ".tsv"} else []
        if idle:
            raise ValueError(f"Found --{idle[0]} with {where}; expected a csv, else it does nothing. Leave it out.")
    for name, split in splits.items():
        if isinstance(split, Files):
            splits[name], rows = split.read(encoding=encoding, delimiter=delimiter)
            places[name], commas = rows.place, commas or rows.decimal_commas
        elif len(split) == 0:
            raise ValueError(f"The {name} split of {where} has 0 rows; expected at least 1. Check the file.")

    several = label_column if isinstance(label_column, list) else [label_column]
    if labelled and len(several) > 1:
        for name in several:
            find_columns(splits["train"].data.schema, {"label": name})
        for name, split in splits.items():
            if {*several} <= {*split.column_names}:
                splits[name] = join_columns(split, several, places[name])
    columns = {"text": text_column, "text_pair": text_pair_column, "id": id_column}
    if labelled:
        columns["label"] = several[0] if len(several) == 1 else ", ".join(several)
    columns = find_columns(splits["train"].data.schema, columns)
    if labelled and "test" in splits and columns["label"] not in splits["test"].column_names:
        lacks = f"The test split of {where} has no column {columns['label']}"
        if test_file:
            raise ValueError(f"{lacks}; expected labels to report by. Rename its column, or leave --test_file out.")
        warn(f"{lacks}; it is left out.")
        del splits["test"]
    for name, split in splits.items():
        find_columns(split.data.schema, columns, f"the {name} split")

    if labelled:
        column = columns.pop("label")
        splits = {name: read_lists(split, column, places[name]) for name, split in splits.items()}
        labels = LabelColumn(splits["train"], column, label_delimiter, problem_type, commas, places)
    code, result, first_id = code_digest(), DatasetDict(), 0
    for name, split in splits.items():
        form = split.select_columns([*columns.values()]).rename_columns({old: new for new, old in columns.items()})
        if any(feature.dtype != "string" for feature in form.features.values()):
            form = form.cast(Features(dict.fromkeys(columns, Value("string"))))
        cells = (text for batch in row_batches(form, "text") for text in batch["text"])
        if name == "train" and all(text is None or NUMBER.fullmatch(text) for text in cells):
            raise ValueError(
                f"Column {columns['text']} holds nothing but numbers, no text. Name another --text_column."
            )
        missing, alone = np.zeros((2, len(form)), bool)  # without what is needed; a text without a label, that is kept
        for new in () if keep_missing else {*columns} - {"id"}:
            missing |= is_missing(form, new, blank=drop_empty)
        if labelled:
            found = labels.read(split, name)
            numbers = labels.problem_type == REGRESSION
            if name == "test" and (found.sizes.max() < 1 or numbers and {*found.values} == {-1}):
                hidden = f"The labels of the test split of {where} are missing or -1"  # as in GLUE
                if test_file:
                    raise ValueError(f"{hidden}; expected some to report by. Fill them in, or leave --test_file out.")
                warn(f"{hidden}; it is left out.")
                continue
            unlabelled = found.sizes < 0
            alone = ~missing & unlabelled & (keep_unlabelled and name == "train")
            missing |= unlabelled & ~alone
        if alone.any():
            ids = np.flatnonzero(alone)
            result["unlabelled"] = form.select(ids).add_column("example_id", ids)
        kept = np.flatnonzero(~missing & ~alone)
        if missing.any():
            first = f"the first at {places[name](int(missing.argmax()))}"
            counted = f"{missing.sum()} rows without a text or label (-1 or empty) in {name}, {first}"
            if not drop_empty or not len(kept):
                advice = "Fill them, leave them out with --drop_empty, or write -1 as a name if it is one."
                raise ValueError(f"Found {counted}; expected both in every row. {advice}")
            warn(f"Left out {counted} (--drop_empty).")
        if len(kept) < len(form):
            form = form.select(kept)
        if labelled:
            numbers = labels.numbers(found.select(~missing & ~alone), name)
            form = form.add_column("label", numbers, feature=labels.feature)
        # datasets caches map() by the name of a function of a module: its fingerprint must see an edit of ours
        fingerprint = Hasher.hash([form._fingerprint, first_id, code])
        result[name] = form.add_column("example_id", first_id + kept, new_fingerprint=fingerprint)
        first_id += len(split)
    return result


def load_newsgroups(categories: list[str], remove: list[str]) -> DatasetDict:
    """20 Newsgroups by date: train and test, with group names (`categories`, or `["all"]`) as labels, without what
    scikit-learn can `remove` of a post: `headers`, `footers`, `quotes`; or `["none"]`.

    Raises:
        FileNotFoundError: not in scikit-learn's data folder (`SCIKIT_LEARN_DATA`), and no network.
        ValueError: an unknown group or part.
    """
    from sklearn.datasets import fetch_20newsgroups

    parts = () if remove == ["none"] else tuple(remove)
    if {*parts} - {"headers", "footers", "quotes"}:
        raise ValueError(f"Found --remove {' '.join(remove)}; expected headers, footers or quotes, or none alone.")
    splits, groups = DatasetDict(), None if categories == ["all"] else categories
    for name in ("train", "test"):
        try:
            part = fetch_20newsgroups(subset=name, categories=groups, remove=parts, shuffle=False)
        except (OSError, KeyError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, OSError) else ValueError
            raise kind(
                f"20 Newsgroups cannot be loaded ({error}); expected groups such as sci.med in --categories, and the "
                "posts in SCIKIT_LEARN_DATA, or a network."
            ) from error
        rows = Dataset.from_dict({"text": part.data, "label": part.target.tolist()})
        splits[name] = rows.cast_column("label", ClassLabel(names=list(part.target_names)))
    return splits


def find_columns(schema: pa.Schema, given: dict[str, str | None], where: str = "the data") -> dict[str, str]:
    """The column for each of text, text_pair, label and id: the given one, or the first of its usual names, if any."""
    found = {}
    for role, asked in given.items():
        if asked is None and role not in USUAL:
            continue
        usual = USUAL[role] if asked is None else [asked]
        if (name := next((name for name in usual if name in schema.names), None)) is None:
            raise ValueError(
                f"Found the columns {', '.join(schema.names) or 'none'} in {where}; expected {' or '.join(usual)}. "
                f"Name the right one with --{role}_column, or what parts columns with --delimiter."
            )
        if (why := refusal(schema, name)) is not None:
            raise ValueError(why)
        kind = schema.field(name).type
        if role in ("text", "text_pair") and kind not in STRINGS:
            raise ValueError(
                f"Column {name} of {where} holds {str(kind):.60}, expected strings. Name another --{role}_column."
            )
        if role == "id" and (pa.types.is_nested(kind) or "binary" in str(kind)):
            found = f"Column {name} of {where} holds {str(kind):.60}"
            raise ValueError(f"{found}; expected texts or numbers. Name another --id_column.")
        found[role] = name
    different = [*found.values()]
    if len({*different}) < len(different):
        raise ValueError(
            f"Found the columns {', '.join(different)} for {', '.join(found)}; expected different ones. Name others."
        )
    return found
