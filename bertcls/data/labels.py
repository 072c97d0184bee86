"""What the labels of a data set say: the task, the names of its classes, and numbers for training."""

import re

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, List, Value

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import say, warn

_MANY_LABELS = 50  # more names than this in half of all rows are no classes
_TRUTH = {"0", "1", "0.0", "1.0", "False", "True"}  # what a vector says of each label
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


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


def label_config(dataset: Dataset, *, class_weights: str = "none") -> dict:
    """What the labels of the training rows say of the head: arguments of `from_encoder`.

    Args:
        dataset: train.
        class_weights: `balanced` weighs classes inversely to their row counts.

    Returns:
        `problem_type` and `id2label`, `class_weights` where asked, and of a regression `label_mean` and `label_scale`.

    Raises:
        ValueError: as `balanced_class_weights`.
    """
    kind, names, labels = problem_type_of(dataset), label_names_of(dataset), label_array(dataset)
    config: dict = {"problem_type": kind, "id2label": dict(enumerate(names))}
    say(f"{kind}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}")
    if class_weights == "balanced":
        config["class_weights"] = balanced_class_weights(labels, len(names))
    if kind == REGRESSION:
        config |= {"label_mean": float(labels.mean()), "label_scale": float(labels.std())}
    return config


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


def find_problem_type(split: Dataset, column: str, delimiter: str | None, given: str | None) -> str:
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
        decimal = all(NUMBER.fullmatch(str(label)) for label in labels) and any("." in str(label) for label in labels)
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
    if isinstance(label, float) or NUMBER.fullmatch(str(label)) and "." in str(label):
        return [str(int(float(label)))] if float(label).is_integer() else [str(label)]
    return [str(label).strip()]


def names_in(split: Dataset, column: str, delimiter: str | None, problem_type: str) -> list[str]:
    """Class names of the training split: those of its `ClassLabel`, otherwise its labels in natural order."""
    feature = split.features[column]
    feature = getattr(feature, "feature", feature)
    if problem_type == REGRESSION:
        return ["value"]
    labels = split[column][:]
    keys = [_keys(label, delimiter, problem_type) for label in labels]
    refuse_unlabelled(np.array([row is None for row in keys]), "train")
    seen = sorted({key for row in keys for key in row}, key=natural_key)
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


def refuse_unlabelled(unlabelled: np.ndarray, split_name: str) -> None:
    if unlabelled.any():
        raise ValueError(
            f"Found {unlabelled.sum()} unlabelled rows (-1 or empty) in {split_name}, the first at row "
            f"{int(np.argmax(unlabelled))}; expected a label in every row. Remove them, name another --label_column, "
            "or write -1 as a name where it is a class."
        )


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def label_values(
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
