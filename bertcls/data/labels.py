"""What the labels of a data set say: the task, the names of its classes, and numbers for training."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, LargeList, List, Value

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.process import say, warn

NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*")
_QUOTES_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
_LISTS = List | LargeList
_MANY_LABELS = 50  # more names than this in half of all rows are no classes
_A_HANDFUL = 20  # different numbers, of several rows each: they may be names of classes
_YES, _NO, _HIDDEN = {"1", "1.0", "true"}, {"0", "0.0", "false"}, {"", "-1", "-1.0", "nan", "none"}


def problem_type_of(dataset: Dataset) -> str:
    """`single_label_classification`, `multi_label_classification` or `regression`, by the type of `label`."""
    kinds = {ClassLabel: SINGLE_LABEL, List: MULTI_LABEL}
    return kinds.get(type(dataset.features["label"]), REGRESSION)


def label_names_of(dataset: Dataset) -> list[str]:
    """Names of the classes in the order of their numbers; of a regression, the one name `value`."""
    return _declared(dataset.features["label"]) or ["value"]


def label_array(dataset: Dataset) -> np.ndarray:
    """Labels for metrics: class numbers `[rows]`, 0 and 1 `[rows, num_labels]` for multi-label, or floats `[rows]`."""
    labels = dataset["label"][:]
    if problem_type_of(dataset) != MULTI_LABEL:
        return np.array(labels)
    from sklearn.preprocessing import MultiLabelBinarizer

    return MultiLabelBinarizer(classes=range(len(label_names_of(dataset)))).fit_transform(labels)


def label_counts(dataset: Dataset) -> np.ndarray:
    """Rows of each class `[num_labels]`."""
    labels = label_array(dataset)
    return labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(label_names_of(dataset)))


def label_shares(dataset: Dataset) -> dict[str, float]:
    """Share of rows per label name; in a multi-label task these need not add up to 1."""
    return {name: float(n / len(dataset)) for name, n in zip(label_names_of(dataset), label_counts(dataset))}


def label_config(dataset: Dataset, *, class_weights: str = "none") -> dict:
    """What the labels of the training rows say of the head: arguments of `from_encoder`.

    With `class_weights="balanced"` classes weigh inversely to their row counts, with mean 1 over the labels of all
    rows, so that the learning rate keeps its meaning. Of a regression there are also `label_mean` and `label_scale`.

    Raises:
        ValueError: weights of a class without a row, or of a regression.
    """
    kind, names = problem_type_of(dataset), label_names_of(dataset)
    config: dict = {"problem_type": kind, "id2label": dict(enumerate(names))}
    say(f"{kind}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}")
    if kind == REGRESSION:
        labels = label_array(dataset)
        config |= {"label_mean": float(labels.mean()), "label_scale": float(labels.std())}
    if class_weights == "balanced":
        if kind == REGRESSION:
            raise ValueError("Found --class_weights balanced with a regression, which has no classes. Leave it out.")
        counts = label_counts(dataset)
        if not counts.all():
            unseen = names[counts.argmin()]
            raise ValueError(f"Class {unseen} has 0 training rows, and so no weight. Use --class_weights none.")
        config["class_weights"] = (counts.sum() / (len(names) * counts)).tolist()
    return config


def join_columns(split: Dataset, columns: list[str], place: Callable[[int], str]) -> Dataset:
    """The split with one more column, named after `columns`, of lists of those that are 1; null where one is empty or
    -1, which hides it.

    Raises:
        ValueError: a cell that is neither 0 nor 1.
    """
    lists: list[list[int] | None] = []
    for row, cells in enumerate(zip(*(split[name][:] for name in columns))):
        words = [str(cell).strip().lower() for cell in cells]
        for name, word in zip(columns, words):
            if word not in _YES | _NO | _HIDDEN:
                raise ValueError(
                    f"Found {word[:40]!r} in column {name}, {place(row)}; expected 0 or 1 in each of several label "
                    "columns. Correct it, or name one --label_column."
                )
        lists.append(None if _HIDDEN & {*words} else [number for number, word in enumerate(words) if word in _YES])
    feature = List(ClassLabel(names=columns))
    return split.add_column(", ".join(columns), pa.array(lists, pa.list_(pa.int64())), feature=feature)


def read_lists(split: Dataset, column: str, place: Callable[[int], str]) -> Dataset:
    """The split with lists in place of the strings that a csv made of them, if the column has such strings.

    Raises:
        ValueError: some cells are lists, and some are not.
    """
    if not _is_string(split.features[column]):
        return split
    cells = split[column][:]
    lists = [None if cell is None else _list_in(cell) for cell in cells]
    odd = [row for row, cell in enumerate(cells) if cell is not None and cell.strip() and lists[row] is None]
    listed = any(found is not None for found in lists)
    if listed and odd or any(_is_printed_array(cells[row]) for row in odd):
        raise ValueError(
            f"Found {cells[odd[0]][:40]!r} in column {column}, {place(odd[0])}, which is no list as in other rows; "
            "expected lists such as ['sport', 'news'] or [\"sport\", \"news\"] in all of them. Correct it."
        )
    if not listed:
        return split
    return split.remove_columns(column).add_column(column, pa.array(lists, pa.list_(pa.string())))


def _list_in(cell: str) -> list[str] | None:
    """The names or numbers of a list, as JSON or Python writes it; `None` for another text."""
    cell = cell.strip()
    if cell[:1] not in ("[", "(", "{") or cell[-1:] not in ("]", ")", "}") or _is_printed_array(cell):
        return None
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            found = parse(cell)
            if isinstance(found, list | tuple | set) and all(isinstance(name, str | int | float) for name in found):
                return [str(name) for name in found]
            return None
    return None


def _is_printed_array(cell: str) -> bool:
    """Whether it is what numpy prints, `[0 1]` or `['a' 'b']`, of which Python would make one name."""
    inside = cell.strip()[1:-1].split()
    numbers = len(inside) > 1 and all(map(NUMBER.fullmatch, inside))
    return cell.lstrip()[:1] == "[" and (numbers or "," not in cell and bool(_QUOTES_WITHOUT_COMMA.search(cell)))


def _is_string(feature) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


class LabelColumn:
    """The labels of a column: the task and the classes that train makes of them, and their numbers in any split.

    With `commas` one may stand in a number; `places` say where a row of each split stands.
    """

    def __init__(
        self,
        train: Dataset,
        column: str,
        *,
        delimiter: str | None,
        problem_type: str | None,
        commas: bool,
        places: dict,
    ):
        self.column, self.delimiter, self._commas, self._places = column, delimiter, commas, places
        self.problem_type = self._task(train, problem_type)
        self.feature = Value("float32")
        if self.problem_type != REGRESSION:
            classes = ClassLabel(names=self._class_names(train))
            self.feature = List(classes) if self.problem_type == MULTI_LABEL else classes

    def numbers(self, rows: list[list], split_name: str) -> pa.Array:
        """The labels of `read` as they are stored."""
        different = {label for row in rows for label in row}
        if split_name == "train" and len(different) < 2:
            found = f"Found only the label {', '.join(map(str, different))} in column {self.column} of train"
            raise ValueError(f"{found}; expected more. Name another --label_column, or add rows of other classes.")
        if self.problem_type == REGRESSION:
            return pa.array([row[0] for row in rows], pa.float32())
        number = {name: i for i, name in enumerate(_declared(self.feature))}
        if new := sorted(different - number.keys()):
            raise ValueError(
                f"Found the labels {', '.join(new[:5])} in {split_name}; expected one of {', '.join([*number][:20])}, "
                "as in train. Correct the rows, or add the class there."
            )
        if self.problem_type == SINGLE_LABEL:
            return pa.array([number[row[0]] for row in rows], pa.int64())
        return pa.array([sorted({number[name] for name in row}) for row in rows], pa.list_(pa.int64()))

    def _task(self, train: Dataset, given: str | None) -> str:
        feature, where = train.features[self.column], f"in column {self.column}"
        if given not in (None, SINGLE_LABEL, MULTI_LABEL, REGRESSION):
            raise ValueError(f"Found --problem_type {given}; expected {SINGLE_LABEL}, {MULTI_LABEL} or {REGRESSION}.")
        if not isinstance(feature, _LISTS | ClassLabel | Value):
            raise ValueError(f"Found labels of type {feature} {where}; expected names, numbers or lists of names.")
        if self.delimiter is not None and not _is_string(feature):
            found = f"Found --label_delimiter {self.delimiter!r} with labels of type"
            raise ValueError(f"{found} {getattr(feature, 'dtype', feature)}; expected strings.")
        lists = isinstance(feature, _LISTS) or self.delimiter is not None
        if given is not None and lists != (given == MULTI_LABEL):
            raise ValueError(
                f"Found {'lists of labels' if lists else 'one label a row'} {where} with --problem_type {given}; "
                "leave it out, or name the character between the labels of a cell with --label_delimiter."
            )
        if lists or given is not None or isinstance(feature, ClassLabel):
            return MULTI_LABEL if lists else given or SINGLE_LABEL
        floats = feature.dtype.startswith("float")
        labels = [str(label) for label in train[self.column][:] if label not in (None, "") and label == label]
        numbers = [float(label) if floats else self._number(label) for label in labels]
        if None in numbers or not numbers:
            return SINGLE_LABEL
        few = len({*numbers}) <= min(_A_HANDFUL, len(numbers) / 3) and f"{len({*numbers})} different numbers {where}"
        commas = [label for label in labels if "," in label]
        if not (floats or commas or any("." in label for label in labels)):
            if few and len({*numbers}) > 2:
                say(f"Found {few}, taken for classes; --problem_type {REGRESSION} takes them for values.")
            return SINGLE_LABEL
        if all(number.is_integer() for number in numbers):
            raise ValueError(
                f"Found the whole numbers with decimal places {', '.join(labels[:3])} {where}; expected classes or "
                f"values. Say which: --problem_type {SINGLE_LABEL} or {REGRESSION}."
            )
        if commas:
            say(f"Commas {where} are read as decimal points, as in {commas[0]}.")
        if few:
            shown = ", ".join(sorted({*labels}, key=self._number)[:5])
            warn(f"Found {few} ({shown}), taken for values; --problem_type {SINGLE_LABEL} takes them for classes.")
        return REGRESSION

    def _number(self, label) -> float | None:
        """The number that a label is; `None` for another."""
        label = str(label).replace(",", ".", self._commas)
        return float(label) if NUMBER.fullmatch(label) else None

    def read(self, split: Dataset, split_name: str) -> list[list | None]:
        """Each row's labels as they are written, or its number; `None` where there is none."""
        declared, rows = _declared(split.features[self.column]) or [], []

        def name_of(label) -> str:
            if declared:
                return declared[label] if 0 <= label < len(declared) else str(label)
            return str(int(label) if isinstance(label, float) and label.is_integer() else label).strip()

        for label in split[self.column][:]:
            if self.delimiter is not None:  # an empty cell has no labels, and is not without
                rows.append([part.strip() for part in (label or "").split(self.delimiter) if part.strip()])
            elif label is None or label != label or label == "":
                rows.append(None)
            elif self.problem_type == MULTI_LABEL:
                rows.append([*map(name_of, label)])
            elif self.problem_type == SINGLE_LABEL:
                name = name_of(label)
                rows.append(None if name in ("", "-1") else [name])
            else:
                rows.append([self._number(label)])
                if rows[-1][0] is None or np.isinf(rows[-1][0]):
                    place = self._places[split_name](len(rows) - 1)
                    raise ValueError(
                        f"Found the label {label!r:.40} of {split_name} in {place}; expected a number, since column "
                        f"{self.column} makes a regression. Correct it, or give --problem_type {SINGLE_LABEL}."
                    )
        return rows

    def _class_names(self, train: Dataset) -> list[str]:
        """Class names of the training split: those of its `ClassLabel`, otherwise its labels in natural order."""
        rows = [row for row in self.read(train, "train") if row is not None]
        seen = sorted({name for row in rows for name in row}, key=natural_key)
        declared, sizes = _declared(train.features[self.column]), {*map(len, rows)}
        vectors = [row for row in rows if len({*row}) < len(row)]
        if not declared and {name.lower() for name in seen} <= _YES | _NO and len(sizes) == 1 and min(sizes) > 1:
            vectors += rows
        if vectors:
            raise ValueError(
                f"Found the vector {', '.join(vectors[0][:5])} in column {self.column}; expected lists of names, not "
                "vectors. Write the names of the labels that are 1."
            )
        written = {label for label in train[self.column][:] if isinstance(label, str) and label.strip()}
        times = Counter(map(str.strip, written))
        names = declared or seen
        if merged := sorted(label for label in written if times[label.strip()] > 1):
            warn(f"Labels that differ in blanks at their ends are taken as one: {', '.join(map(repr, merged[:20]))}")
        if len(names) > max(_MANY_LABELS, len(rows) / 2):
            raise ValueError(
                f"Found {len(names)} different labels in {len(rows)} rows of column {self.column}; expected classes "
                "of several rows each. Name another --label_column, or give --problem_type regression."
            )
        return names


def _declared(feature) -> list[str] | None:
    """The class names that a feature declares."""
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    parts = [(part, part.lstrip("0")) for part in re.split(r"(\d+)", name)]
    return [(0, len(digits), digits) if part.isdecimal() else (1, 0, part) for part, digits in parts]
