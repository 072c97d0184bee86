"""What the labels of a data set say: the task, the names of its classes, and numbers for training."""

import ast
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List, Value

from bertcls.data.columns import column, numbers_in, row_batches
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
    if problem_type_of(dataset) != MULTI_LABEL:
        numbers = numbers_in(dataset, "label")
        return numbers.astype(np.float64 if numbers.dtype.kind == "f" else np.int64)
    labels = column(dataset, "label").combine_chunks()
    found = np.zeros((len(labels), len(label_names_of(dataset))), np.int64)
    found[pc.list_parent_indices(labels), pc.list_flatten(labels)] = 1
    return found


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
    chunks, done = [], 0
    for batch in row_batches(split, *columns):
        lists: list[list[int] | None] = []
        for cells in zip(*(batch[name] for name in columns)):
            words = [str(cell).strip().lower() for cell in cells]
            for name, word in zip(columns, words):
                if word not in _YES | _NO | _HIDDEN:
                    raise ValueError(
                        f"Found {word[:40]!r} in column {name}, {place(done + len(lists))}; expected 0 or 1 in each "
                        "of several label columns. Correct it, or name one --label_column."
                    )
            lists.append(None if _HIDDEN & {*words} else [number for number, word in enumerate(words) if word in _YES])
        chunks.append(pa.array(lists, pa.list_(pa.int64())))
        done += len(lists)
    feature = List(ClassLabel(names=columns))
    return split.add_column(", ".join(columns), pa.chunked_array(chunks).combine_chunks(), feature=feature)


def read_lists(split: Dataset, name: str, place: Callable[[int], str]) -> Dataset:
    """The split with lists in place of the strings that a csv made of them, if the column has such strings.

    Raises:
        ValueError: some cells are lists, and some are not.
    """
    if not _is_string(split.features[name]):
        return split
    cells = column(split, name).cast(pa.large_string())
    different = cells.unique()
    lists = [None if cell is None else _list_in(cell) for cell in different.to_pylist()]
    listed = any(found is not None for found in lists)
    odd = [cell for cell, found in zip(different.to_pylist(), lists) if found is None and cell and cell.strip()]
    bare = all(cell.strip()[:1] in "[{" and cell.strip()[-1:] in "]}" for cell in odd)  # [sport, news]
    bare = bare and any("," in cell for cell in odd)
    if odd and (listed or bare) or any(map(_is_printed_array, odd)):
        row = pc.index(cells, pa.scalar(odd[0], cells.type)).as_py()
        raise ValueError(
            f"Found {odd[0][:40]!r} in column {name}, {place(row)}, which is no list that can be read; expected lists "
            "such as ['sport', 'news'] or [\"sport\", \"news\"] in all rows. Correct it."
        )
    if not listed:
        return split
    found = pa.array(lists, pa.list_(pa.string())).take(pc.index_in(cells, different).combine_chunks())
    return split.remove_columns(name).add_column(name, found)


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


def _is_printed_array(cell: str) -> bool:
    """Whether it is what numpy prints, `[0 1]` or `['a' 'b']`, of which Python would make one name."""
    inside = cell.strip()[1:-1].split()
    numbers = len(inside) > 1 and all(NUMBER.fullmatch(part) or part in ("True", "False") for part in inside)
    return cell.lstrip()[:1] == "[" and (numbers or "," not in cell and bool(_QUOTES_WITHOUT_COMMA.search(cell)))


def _is_string(feature) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


@dataclass
class RowLabels:
    """The labels of rows: one after another, as places in `names` or as numbers, and how many each row has."""

    values: np.ndarray
    sizes: np.ndarray  # [rows]; -1: without
    names: list[str]

    def select(self, kept: np.ndarray) -> "RowLabels":
        """Those of some rows, which a mask says `[rows]`."""
        return RowLabels(self.values[np.repeat(kept, np.maximum(self.sizes, 0))], self.sizes[kept], self.names)

    def by_row(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many different `numbers`, one for each of the names, a row has, and these, ascending, row by row."""
        rows, most = np.repeat(np.arange(len(self.sizes)), np.maximum(self.sizes, 0)), int(numbers.max(initial=0)) + 1
        pairs = np.unique(rows * most + numbers[self.values])
        return np.bincount(pairs // most, minlength=len(self.sizes)), pairs % most


class LabelColumn:
    """The labels of a column: the task and the classes that train makes of them, and their numbers in any split.

    With `commas` one may stand in a number; `places` say where a row of each split stands.
    """

    def __init__(
        self, train: Dataset, column: str, delimiter: str | None, problem_type: str | None, commas: bool, places: dict
    ):
        self.column, self.delimiter, self._commas, self._places = column, delimiter, commas, places
        self.problem_type = self._task(train, problem_type)
        self.feature = Value("float32")
        if self.problem_type != REGRESSION:
            classes = ClassLabel(names=self._class_names(train))
            self.feature = List(classes) if self.problem_type == MULTI_LABEL else classes

    def numbers(self, found: RowLabels, split_name: str) -> pa.Array:
        """The labels of `read`, of rows that are not without, as they are stored."""
        different = np.unique(found.values)
        if self.problem_type != REGRESSION:
            different = [found.names[place] for place in different]
        if split_name == "train" and len(different) < 2:
            only = f"Found only the label {', '.join(map(str, different))} in column {self.column} of train"
            raise ValueError(f"{only}; expected more. Name another --label_column, or add rows of other classes.")
        if self.problem_type == REGRESSION:
            return pa.array(found.values, pa.float32())
        number = {name: i for i, name in enumerate(_declared(self.feature))}
        if new := sorted({*different} - number.keys()):
            raise ValueError(
                f"Found the labels {', '.join(new[:5])} in {split_name}; expected one of {', '.join([*number][:20])}, "
                "as in train. Correct the rows, or add the class there."
            )
        numbers = np.array([number.get(name, -1) for name in found.names], np.int64)  # -1: of rows that are left out
        if self.problem_type == SINGLE_LABEL:
            return pa.array(numbers[found.values])
        sizes, labels = found.by_row(numbers)
        return pa.ListArray.from_arrays(pa.array(np.append(0, sizes.cumsum()), pa.int32()), pa.array(labels))

    def _task(self, train: Dataset, given: str | None) -> str:
        feature, where = train.features[self.column], f"in column {self.column}"
        if given not in (None, SINGLE_LABEL, MULTI_LABEL, REGRESSION):
            raise ValueError(f"Found --problem_type {given}; expected {SINGLE_LABEL}, {MULTI_LABEL} or {REGRESSION}.")
        if not isinstance(feature, _LISTS | ClassLabel | Value):
            raise ValueError(f"Found labels of type {feature} {where}; expected names, numbers or lists of names.")
        inner = getattr(feature, "feature", feature)
        if not isinstance(inner, ClassLabel | Value):
            found = f"Found lists of {getattr(inner, 'dtype', inner)!s:.60} {where}"
            raise ValueError(f"{found}; expected lists of the names of a text's labels. Write these.")
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
        different, rows, comma, decimal, whole = {}, 0, None, floats, True
        for label in self._cells(train):
            if label in (None, "") or label != label:
                continue
            number = float(label) if floats else self._number(label)
            if number is None:
                return SINGLE_LABEL
            rows, label = rows + 1, str(label)
            if len(different) <= _A_HANDFUL:
                different.setdefault(number, label)
            comma, decimal = comma or ("," in label and label), decimal or "." in label
            whole = whole and number.is_integer()
        if not rows:
            return SINGLE_LABEL
        few = len(different) <= min(_A_HANDFUL, rows / 3) and f"{len(different)} different numbers {where}"
        if not (decimal or comma):
            if few and len(different) > 2:
                say(f"Found {few}, taken for classes; --problem_type {REGRESSION} takes them for values.")
            return SINGLE_LABEL
        if whole:
            raise ValueError(
                f"Found the whole numbers with decimal places {', '.join([*different.values()][:3])} {where}; "
                f"expected classes or values. Say which: --problem_type {SINGLE_LABEL} or {REGRESSION}."
            )
        if comma:
            say(f"Commas {where} are read as decimal points, as in {comma}.")
        if few:
            shown = ", ".join(different[number] for number in sorted(different)[:5])
            warn(f"Found {few} ({shown}), taken for values; --problem_type {SINGLE_LABEL} takes them for classes.")
        return REGRESSION

    def _number(self, label) -> float | None:
        """The number that a label is; `None` for another."""
        label = str(label).replace(",", ".", self._commas)
        return float(label) if NUMBER.fullmatch(label) else None

    def _cells(self, split: Dataset) -> Iterator:
        return (cell for batch in row_batches(split, self.column) for cell in batch[self.column])

    def read(self, split: Dataset, split_name: str) -> RowLabels:
        """Each row's labels as they are written, or its number.

        Raises:
            ValueError: labels of another kind than in train, or a number or a name that none can be.
        """
        feature, lists = split.features[self.column], self.problem_type == MULTI_LABEL and self.delimiter is None
        strings = self.delimiter is None or _is_string(feature)
        blank = getattr(feature, "dtype", None) == "null"
        blank = blank or _is_string(feature) and not any(column(split, self.column).unique().to_pylist())
        if not blank and (lists != isinstance(feature, _LISTS) or not strings):
            found = f"Found labels of type {getattr(feature, 'dtype', feature)!s:.60} in column {self.column}"
            wanted = "lists" if lists else "one a row" if self.delimiter is None else "strings"
            raise ValueError(f"{found} of {split_name}; expected {wanted}, as in train. Write all in one way.")
        declared = _declared(feature) or []
        numbers = [self._number(name) for name in declared]  # which a regression takes, where all names are such
        numbers = numbers if numbers and None not in numbers else range(len(declared))
        places: dict[str, int] = {}
        values, sizes = array("d" if self.problem_type == REGRESSION else "q"), array("q")
        where = self._places[split_name]

        def name_of(label) -> str:
            if declared:
                return declared[label] if 0 <= label < len(declared) else str(label)
            label = label.decode(errors="backslashreplace") if isinstance(label, bytes) else label
            return str(int(label) if isinstance(label, float) and label.is_integer() else label).strip()

        for row, label in enumerate(self._cells(split)):
            found: list | None = None
            if self.delimiter is not None:  # an empty cell has no labels, and is not without
                found = [part.strip() for part in (label or "").split(self.delimiter) if part.strip()]
            elif label is None or label != label or label == "":
                pass
            elif self.problem_type == MULTI_LABEL:
                if any(part is None or part != part for part in label):
                    raise ValueError(
                        f"Found a label that is missing in {label!r:.60} of {split_name} in {where(row)}; expected "
                        "names. Leave it out of the list."
                    )
                found = [*map(name_of, label)]
            elif self.problem_type == SINGLE_LABEL:
                hidden = label == -1 if declared else name_of(label) in ("", "-1")
                found = None if hidden else [name_of(label)]
            else:
                found = [float(numbers[label]) if declared and 0 <= label < len(declared) else self._number(label)]
                if found[0] is None or abs(found[0]) > np.finfo(np.float32).max:
                    raise ValueError(
                        f"Found the label {label!r:.40} of {split_name} in {where(row)}; expected a number, since "
                        f"column {self.column} makes a regression. Correct it, or give --problem_type {SINGLE_LABEL}."
                    )
            sizes.append(-1 if found is None else len(found))
            if self.problem_type != REGRESSION:
                found = [places.setdefault(name, len(places)) for name in found or ()]
            values.extend(found or ())
        return RowLabels(np.array(values), np.array(sizes), [*places])

    def _class_names(self, train: Dataset) -> list[str]:
        """Class names of the training split: those of its `ClassLabel`, otherwise its labels in natural order."""
        rows = self.read(train, "train")
        rows = rows.select(rows.sizes >= 0)
        seen = sorted(rows.names, key=lambda name: (natural_key(name), name))  # 1 and 01 are alike but for the name
        declared, sizes = _declared(train.features[self.column]), np.unique(rows.sizes)
        numbers = all(map(NUMBER.fullmatch, seen)) or {name.lower() for name in seen} <= _YES | _NO
        vectors = (rows.by_row(np.arange(len(seen)))[0] < rows.sizes) & numbers  # with a number twice
        of_numbers = not declared and {name.lower() for name in seen} <= _YES | _NO
        inner = getattr(train.features[self.column], "feature", None)
        shares = str(getattr(inner, "dtype", "")).startswith("float") and any("." in name for name in seen)
        if vectors.any() or shares or of_numbers and len(sizes) == 1 and sizes[0] > 1:
            start = rows.sizes[: vectors.argmax()].sum()
            vector = [rows.names[place] for place in rows.values[start : start + rows.sizes[vectors.argmax()]][:5]]
            raise ValueError(
                f"Found the vector {', '.join(vector)} in column {self.column}; expected lists of names, not "
                "vectors. Write the names of the labels that are 1."
            )
        strings = column(train, self.column).unique().to_pylist() if _is_string(train.features[self.column]) else []
        written = {label for label in strings if label and label.strip()}
        times = Counter(map(str.strip, written))
        names = declared or seen
        if merged := sorted(label for label in written if times[label.strip()] > 1):
            warn(f"Labels that differ in blanks at their ends are taken as one: {', '.join(map(repr, merged[:20]))}")
        if len(names) > max(_MANY_LABELS, len(rows.sizes) / 2):
            raise ValueError(
                f"Found {len(names)} different labels in {len(rows.sizes)} rows of column {self.column}; expected "
                "classes of several rows each. Name another --label_column, or give --problem_type regression."
            )
        return names


def _declared(feature) -> list[str] | None:
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    parts = [(part, part.lstrip("0")) for part in re.split(r"(\d+)", name)]
    return [(0, len(digits), digits) if part.isdecimal() else (1, 0, part) for part, digits in parts]
