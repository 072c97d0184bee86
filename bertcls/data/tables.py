"""Tables from files: csv, tsv, json, jsonl, parquet and txt, compressed or not, in any encoding."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertcls.data.encoding import LONGEST, UNPACK, blocks_of, checked_text
from bertcls.process import warn
from bertcls.text import is_whole

USUAL = {"text": ("text", "sentence", "content", "review"), "label": ("label", "labels")}  # names of columns
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
ROWS_AT_A_TIME = 4096
_CHARACTERS_AT_A_TIME = 4_000_000  # of those rows
_BYTES_OF_ROWS = 1 << 30  # of ROWS_AT_A_TIME rows of a parquet file, unpacked
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # what Excel reads above the header
_LINES_OF_A_ROW = 1  # a row of more may be one that a lost quote joined
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_TWICE = "stands twice; expected different names"
_REFUSED = b"bertcls.refused"  # metadata of a column that no Arrow table can hold: why
Opener = Callable[[], TextIO]
Records = Callable[[], Iterable[tuple[str, dict]]]  # the place and the cells of each row


@dataclass
class Rows:
    """The rows of files: a call gives them in tables, of the columns that are named or of all that there are."""

    paths: list[Path]
    parts: list[Records]  # of each file; none where they are parquet
    in_one: bool = False  # a single table
    twice: Collection[str] = ()  # columns that stand more than once
    decimal_commas: bool = False  # no comma parts the cells

    @property
    def source(self) -> Path:
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent

    def records(self) -> Iterator[tuple[str, dict]]:
        for path, part in zip(self.paths, self.parts):
            for place, row in part():
                yield place if len(self.paths) == 1 else f"{place} of {path.name}", row

    def __call__(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Tables of `ROWS_AT_A_TIME` rows, or fewer where texts are long."""
        for path in () if self.parts else self.paths:
            yield from _parquet_tables(path, columns)
        part, places, size = [], [], 0
        for place, row in chain(self.records(), [("", None)]):
            full = len(part) == ROWS_AT_A_TIME or size > _CHARACTERS_AT_A_TIME
            if part and (row is None or full and not self.in_one):
                names = columns or dict.fromkeys(name for row in part for name in row)
                cells = {name: [row.get(name) for row in part] for name in names}
                yield columns_to_table(cells, self.source, places, twice=self.twice)
                part, places, size = [], [], 0
            if row is not None:
                part.append(row)
                places.append(place)
                size += sum(len(value) for value in row.values() if isinstance(value, str))

    def place(self, row: int) -> str:
        """Where a row stands."""
        found = next(islice(self.records(), row, None))[0] if self.parts else f"row {row}"
        return f"{found} of {self.source}"


def file_format(path: str | Path) -> str | None:
    """The suffix that says how a file is read, a compression's left out; `None` for another file."""
    suffix, before = Path(path).suffix.lower(), Path(Path(path).stem).suffix.lower()
    found = before if suffix in UNPACK else suffix
    return found if found in SUFFIXES else None


def stream_table(
    paths: list[Path], *, encoding: str | None = None, delimiter: str | None = None, whole: bool = False
) -> Rows:
    """The rows of files, one file after another.

    A csv has a header line and columns of strings: "NA" and "None" are words and an empty cell is missing. A json file
    holds a list of records, or an object with one, which is read whole, or a record a line. A txt file holds a text a
    line, in the column `text`. A blank line of it, or of a csv of one column, is a row without a text, so that rows
    keep their numbers; when it is read `whole`, for training, it is none, and json comes in one table.
    """
    kinds, parts, twice, commas = {*map(file_format, paths)}, [], set(), True
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"No file found at {path}; expected a {', '.join(SUFFIXES)} file. Check the path.")
        if (kind := file_format(path)) is None:
            advice = "Save it as CSV (UTF-8)." if path.suffix.lower() in _SHEETS else "Rename it."
            raise ValueError(f"{path} is of an unknown kind; expected the ending {', '.join(SUFFIXES)}. {advice}")
        if kind == ".parquet":
            continue
        is_list = "json" in kind and next(blocks_of(path)).lstrip()[:1] == b"["
        opened = checked_text(path, encoding, longest=None if is_list or kind == ".json" else LONGEST)
        if kind == ".txt":
            parts.append(partial(_txt_rows, opened, whole))
        elif "json" in kind:
            parts.append(partial(_json_rows, opened, path))
        else:
            form = _csv_form(opened, path, delimiter, "\t" if kind == ".tsv" else None)
            names, rows = _csv_rows(opened, form, whole)
            twice |= names_twice(names)
            commas = commas and form["delimiter"] in ";\t"
            parts.append(rows)
    if ".parquet" in kinds and parts:
        found = f"{' and '.join(sorted(kinds))} files in {paths[0].parent}"
        raise ValueError(f"Found {found} as one split; expected .parquet alone, or none of it. Convert some.")
    in_one = whole and any("json" in kind for kind in kinds)
    rows = Rows(paths, parts, in_one, twice, commas and kinds <= {".csv", ".tsv"})
    if next(rows(), pa.table({})).num_rows == 0:
        raise ValueError(
            f"{paths[0]} is empty; expected at least one row (of a csv, below its header). Check the file."
        )
    return rows


def _parquet_tables(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    try:
        packed = path.suffix.lower() in UNPACK
        with pq.ParquetFile(pa.BufferReader(b"".join(blocks_of(path))) if packed else path, pre_buffer=False) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                part = min(ROWS_AT_A_TIME / max(group.num_rows, 1), 1)  # of its rows, that are read at a time
                chunks = map(group.column, range(group.num_columns))
                asked = (chunk for chunk in chunks if columns is None or chunk.path_in_schema.split(".")[0] in columns)
                _check_bytes(path, part * sum(chunk.total_uncompressed_size for chunk in asked))
            _check_repeated(path, file, columns)
            twice = sorted(names_twice(file.schema_arrow.names))
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=columns):
                _check_bytes(path, batch.nbytes)
                table = pa.Table.from_batches([batch])
                table = table.select([i for i, name in enumerate(table.column_names) if name not in twice])
                for name in twice:
                    table = table.append_column(_refused(name, path, _TWICE), pa.nulls(len(table)))
                for place, field in enumerate(table.schema):
                    if pa.types.is_map(field.type) or pa.types.is_union(field.type):  # datasets has no such types
                        why = f"is of type {str(field.type):.60}; expected texts, numbers or lists"
                        table = table.set_column(place, _refused(field.name, path, why), pa.nulls(len(table)))
                kinds = [field.with_type(_plain(field.type)) for field in table.schema]
                yield table.cast(pa.schema(kinds, _declared(path, (table.schema.metadata or {}).get(b"huggingface"))))
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({first}); expected a whole parquet file. Get it anew.") from error


@cache
def _declared(path: Path, written: bytes | None) -> dict:
    """The features that datasets wrote into a parquet file, where these can be read.

    Its fingerprint stays out, by which caches would take other content for the same.
    """
    from datasets import ClassLabel, Features  # who labels one text waits for none of it

    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        kinds = Features.from_dict(features).values()
        named = all(isinstance(name, str) for kind in kinds if isinstance(kind, ClassLabel) for name in kind.names)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        named = False
    if not named:
        warn(f"What {path} says of its columns for datasets cannot be read; it is read without it.")
        return {}
    return {b"huggingface": json.dumps({"info": {"features": features}})}


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that datasets has for the same values."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):  # such as a UUID
        return _plain(kind.storage_type)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _plain(kind.value_type) != kind.value_type:
        return pa.list_(_plain(kind.value_type))
    return pa.large_string() if kind == pa.string_view() else kind


def _check_repeated(path: Path, file: pq.ParquetFile, columns: list[str] | None) -> None:
    """Refuses what long texts take in many rows that a file holds once, before it is unpacked."""
    every = file.schema_arrow.names
    names = [field.name for field in file.schema_arrow if field.type in (pa.string(), pa.large_string())]
    names = [name for name in names if every.count(name) == 1 and (columns is None or name in columns)]
    names = [name for name in names if not any(name.startswith(f"{other}.") for other in every)]  # fields of records
    if not names or path.suffix.lower() in UNPACK:  # a packed one is in memory as a whole
        return
    with pq.ParquetFile(path, pre_buffer=False, read_dictionary=names) as once:
        for group in range(file.num_row_groups):
            first = next(once.iter_batches(1, columns=names, row_groups=[group]), [])
            held = [len(part.dictionary) for part in first]
            longest = max((pc.max(pc.binary_length(part.dictionary)).as_py() or 0 for part in first), default=0)
            for batch in once.iter_batches(ROWS_AT_A_TIME, columns=names, row_groups=[group]):
                if longest * ROWS_AT_A_TIME <= _BYTES_OF_ROWS or [len(part.dictionary) for part in batch] != held:
                    break  # what is not in the dictionary's page stands in full in the file, and is counted
                lengths = (pc.binary_length(part.dictionary).take(part.indices) for part in batch)
                _check_bytes(path, sum(pc.sum(one).as_py() or 0 for one in lengths))


def _check_bytes(path: Path, size: float) -> None:
    if size > _BYTES_OF_ROWS:
        raise ValueError(
            f"{path} holds rows of which {ROWS_AT_A_TIME} take {size / 2**30:.1f} GiB; expected at most "
            f"{_BYTES_OF_ROWS / 2**30:g} GiB, as of texts. Shorten them, or leave out columns that are no texts."
        )


def _txt_rows(open_text: Opener, whole: bool) -> Iterator[tuple[str, dict]]:
    with open_text() as file:
        file.reconfigure(newline="\n")  # a carriage return alone ends no line
        for number, line in enumerate(file, start=1):
            if line.strip() or not whole:
                yield f"line {number}", {"text": line.rstrip("\r\n") if line.strip() else None}


def _csv_form(open_text: Opener, path: Path, delimiter: str | None, usual: str | None) -> dict:
    """Arguments of `_csv_cells`: quotes are text where the file is broken with them, and only then whole."""
    csv.field_size_limit(LONGEST)
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"Found --delimiter {delimiter!r}; expected one character. Correct it.")
    with open_text() as file:
        first = file.readline()
    named = _SEPARATOR_LINE.fullmatch(first.rstrip("\r\n"))
    lines = {"skip": int(named is not None), "newline": "" if first.endswith("\r") else "\n"}
    delimiter = delimiter or (named[1] if named else usual)
    if delimiter is None:
        widths = {}
        for character in _DELIMITERS:
            with open_text() as file:
                cells = csv.reader((line for line in file if line.strip("\r\n")), delimiter=character)
                widths[character] = len(next(cells, []))
        delimiter = max(widths, key=widths.get)
    form = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL} | lines
    unquoted = form | {"quoting": csv.QUOTE_NONE}
    try:
        long = _long_row(open_text, form)
    except csv.Error as error:
        with suppress(csv.Error):
            _long_row(open_text, unquoted)
            return unquoted
        raise ValueError(
            f"{path} cannot be read ({error}); expected a header line and as many cells in each row, separated by "
            f'{delimiter!r}, with texts that hold it in "quotes". Correct that line, or name another --delimiter.'
        ) from error
    if long:
        with suppress(csv.Error):  # which says that the lines are no rows of their own
            _long_row(open_text, unquoted)
            warn(
                f"{path} has a row from line {long[0]} to line {long[1]} by its quotes, though each of these lines "
                "has the cells of a row. Correct the file if a quote is lost there."
            )
    return form


def _long_row(open_text: Opener, form: dict) -> tuple[int, int] | None:
    """Reads all rows, and gives the first and last line of the first one of many lines, if it has several cells."""
    found = None
    for start, end, cells in _csv_cells(open_text, **form):
        if found is None and len(cells) > 1 and end - start >= _LINES_OF_A_ROW:
            found = start, end
    return found


def _csv_cells(
    open_text: Opener, *, delimiter: str, quoting: int, skip: int, newline: str
) -> Iterator[tuple[int, int, list[str]]]:
    """The first and last line and the cells of each row, the header first; of a blank line behind it none."""
    width, line = 0, 1 + skip
    with open_text() as file:
        file.reconfigure(newline=newline)
        reader = csv.reader(islice(file, skip, None), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for cells in reader:
                if width != 1 and len(cells) == 1 and not cells[0].strip():
                    cells = []
                width = width or len(cells)
                # a row may end early, but not one that a lost quote may have joined or parted
                whole = quoting == csv.QUOTE_NONE or any("\n" in cell or "\r" in cell for cell in cells)
                if len(cells) > width or cells and whole and len(cells) < width:
                    raise csv.Error(f"{len(cells)} cells, the header has {width}")
                if width:
                    yield line, reader.line_num + skip, cells
                line = reader.line_num + 1 + skip
        except csv.Error as error:
            raise csv.Error(f"line {line}: {error}") from error


def _csv_rows(open_text: Opener, form: dict, whole: bool) -> tuple[list[str], Records]:
    def own(cell: str) -> str:  # without its quotes where it was quoted as a whole
        bare = form["quoting"] == csv.QUOTE_NONE and _QUOTED.fullmatch(cell)
        return cell[1:-1].replace('""', '"') if bare else cell

    names = [own(name.strip()) for name in next(_csv_cells(open_text, **form), (1, 1, []))[2]]

    def records() -> Iterator[tuple[str, dict]]:
        for line, _, cells in islice(_csv_cells(open_text, **form), 1, None):
            if cells or len(names) == 1 and not whole:
                row = zip_longest(names, map(own, cells), fillvalue="")
                yield f"line {line}", {name: cell or None for name, cell in row if name}  # a delimiter may end a line

    return names, records


def _json_rows(open_text: Opener, path: Path) -> Iterator[tuple[str, dict]]:
    """Records line by line as they are needed, or those of a list, of an object with one list, or as pandas has it."""
    with open_text() as file:
        first, *more = list(islice((line for line in file if line.strip()), 2)) or ["{}"]
        is_list, records = first.lstrip()[0] == "[", None
        file.seek(0)
        if is_list or not more or not isinstance(_parsed(first), dict):
            records = _parsed(file.read(), path if is_list else None)
            file.seek(0)
        if isinstance(records, dict):
            lists = [part for part in records.values() if isinstance(part, list) and [*map(type, part[:1])] == [dict]]
            texts = records if ".jsonl" in path.suffixes else USUAL["text"]  # a text beside a list makes it a row
            a_row = any(isinstance(records.get(name), str) for name in texts) and "data" not in records
            records = [records] if a_row else lists[0] if len(lists) == 1 else _of_pandas(records, path)
        if isinstance(records, list):
            places = ((f"record {number}", record) for number, record in enumerate(records))
        else:
            places = ((f"line {n}", _parsed(line, path, n)) for n, line in enumerate(file, start=1) if line.strip())
        for place, record in places:
            if not isinstance(record, dict):
                found = f"{path} holds a {type(record).__name__} as {place}"
                raise ValueError(f'{found}; expected an object such as {{"text": "...", "label": "..."}}. Correct it.')
            if isinstance(record, _Twins):
                raise ValueError(f"{path} has {record.name!r} twice in {place}; expected different names. Correct it.")
            yield place, record


def _of_pandas(table: dict, path: Path) -> list[dict]:
    """Records of what `DataFrame.to_json` writes by default, columns of cells, of rows of cells, or of one record."""
    parts = list(table.values())
    if parts and all(isinstance(part, dict) for part in parts):
        if not all(part.keys() == parts[0].keys() for part in parts):
            found = f"{path} holds objects of different keys in one object"
            raise ValueError(f'{found}; expected a list of rows. Write it with to_json(orient="records").')
        if all(name.isdecimal() for name in table):
            return parts
        return [dict(zip(table, cells)) for cells in zip(*(part.values() for part in parts))]
    if table.keys() == {"columns", "index", "data"}:
        names, *rows = [table["columns"], *table["data"]] if isinstance(table["data"], list) else [None]
        if all(isinstance(cells, list) for cells in (names, *rows)):
            return [dict(zip(map(str, names), cells)) for cells in rows]
    if len(parts) > 1 and all(isinstance(part, list) and len(part) == len(parts[0]) for part in parts):
        return [dict(zip(table, cells)) for cells in zip(*parts)]
    return [table]


def _parsed(text: str, path: Path | None = None, line: int = 1):
    """JSON that starts in a line of a file; without a file `None` for what is none."""
    try:
        missing = lambda name: None if name == "NaN" else float(name)  # noqa: E731
        return json.loads(text, object_pairs_hook=_object, parse_constant=missing)  # as pandas writes it
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        if path is None:
            return None
        line += getattr(error, "lineno", 1) - 1
        why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        raise ValueError(
            f"{path} is not valid JSON in line {line} ({why}); expected a list of objects, or one a line. Correct it."
        ) from error


class _Twins(dict):
    """An object of which a `name` stands twice: the last one counts, where it is no record."""


def _object(pairs: list[tuple]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        found = _Twins(found)
        found.name = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return found


def columns_to_table(
    columns: dict[str, list], source: str | Path, places: list[str], *, twice: Collection[str] = ()
) -> pa.Table:
    """Columns to an Arrow table; one that it cannot hold, or stands `twice`, is null, and `refusal` says why.

    `places` are those of the rows, for that.
    """
    fields, arrays = [], []
    for name, values in columns.items():
        array, why = pa.nulls(len(places)), _TWICE if name in twice else None
        try:
            array = pa.array(values) if why is None else array
        except UnicodeEncodeError:
            found = (json.dumps(value, ensure_ascii=False, default=str) for value in values)
            row = next((row for row, text in enumerate(found) if not is_whole(text)), 0)
            why = f"holds half of a character (a lone surrogate) in {places[row]}; expected whole ones"
        except (pa.ArrowException, TypeError, OverflowError) as error:
            first = {type(value).__name__: row for row, value in reversed([*enumerate(values)]) if value is not None}
            found = ", ".join(f"{kind} in {places[first[kind]]}" for kind in sorted(first, key=first.get))
            why = f"mixes types ({found})" if len(first) > 1 else f"cannot be stored ({error})"
            why += "; expected texts or numbers of one type in all rows"
        fields.append(pa.field(name, array.type) if why is None else _refused(name, source, why))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def names_twice(names: Iterable[str]) -> set[str]:
    """Names of columns that stand more than once."""
    return {name for name, count in Counter(names).items() if name and count > 1}


def _refused(name: str, source: str | Path, why: str) -> pa.Field:
    metadata = {_REFUSED: f"Column {name} of {source} {why}. Correct the rows."}
    return pa.field(name, pa.null(), metadata=metadata)


def join_tables(tables: list[pa.Table], where: str) -> pa.Table:
    """One table of all rows and columns, each column of one type; null where a table lacks it."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(
            f"Columns of {where} change their types ({str(error).splitlines()[0]}); expected one type in all rows. "
            "Correct the rows, or give --keep_columns false."
        ) from error


def refusal(schema: pa.Schema, name: str) -> str | None:
    """Why no table can hold a column."""
    return (schema.field(name).metadata or {}).get(_REFUSED, b"").decode() or None
