"""Tables from files: csv, tsv, json, jsonl, parquet and txt, compressed or not, in any encoding."""

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from bertcls.data.encoding import UNPACK, blocks_of, checked_text
from bertcls.text import is_whole

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
ROWS_AT_A_TIME = 4096
_CHARACTERS_AT_A_TIME = 4_000_000  # of those rows
_BYTES_OF_ROWS = 1 << 30  # of ROWS_AT_A_TIME rows of a parquet file, unpacked
_CHARACTERS_OF_A_CELL = (1 << 31) - 1  # Python's csv takes 131,072 of its own accord
_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_REFUSED = b"bertcls.refused"  # metadata of a column that no Arrow table can hold: why
Opener = Callable[[], TextIO]


def file_format(path: str | Path) -> str | None:
    """The suffix that says how a file is read, a compression's left out; `None` for another file."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in UNPACK:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def stream_table(
    path: Path, *, encoding: str | None = None, delimiter: str | None = None, whole: bool = False
) -> Callable[..., Iterator[pa.Table]]:
    """A function that gives the rows of a file, some thousand at a time; given names of columns, at least these.

    A csv has a header line and columns of strings: "NA" and "None" are words and an empty cell is missing. A json file
    holds a list of records, or an object with one, which is read whole, or a record a line. A txt file holds a text a
    line, in the column `text`. A blank line of it, or of a csv of one column, is a row without a text, so that rows
    keep their numbers; when it is read `whole`, for training, it is none, and json comes in one table.
    """
    kind = file_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file found at {path}; expected a {', '.join(SUFFIXES)} file. Check the path.")
    if kind is None:
        raise ValueError(f"{path} is of an unknown kind; expected the ending {', '.join(SUFFIXES)}. Rename it.")
    if kind == ".parquet":
        tables = partial(_parquet_tables, path)
    else:
        opened = checked_text(path, encoding)
        if kind == ".txt":
            rows = partial(_txt_rows, opened, whole)
        elif "json" in kind:
            rows = partial(_json_rows, opened, path)
        else:
            form = _csv_form(opened, path, delimiter or ("\t" if kind == ".tsv" else None))
            rows = partial(_csv_rows, opened, path, form, whole)
        tables = partial(row_tables, rows, path, in_one=whole and "json" in kind)
    if next(tables(), pa.table({})).num_rows == 0:
        raise ValueError(f"{path} is empty; expected at least one row (of a csv, below its header). Check the file.")
    return tables


def row_tables(
    rows: Callable[[], Iterable[dict]], source: Path, columns: list[str] | None = None, *, in_one: bool = False
) -> Iterator[pa.Table]:
    """Tables of `ROWS_AT_A_TIME` rows, fewer where texts are long, or one; of `columns`, or of all that there are."""
    part, size, done = [], 0, 0
    for row in chain(rows(), [None]):
        full = len(part) == ROWS_AT_A_TIME or size > _CHARACTERS_AT_A_TIME
        if part and (row is None or full and not in_one):
            names = columns or dict.fromkeys(name for row in part for name in row)
            yield columns_to_table({name: [row.get(name) for row in part] for name in names}, source, first_row=done)
            part, size, done = [], 0, done + len(part)
        if row is not None:
            part.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, str))


def _parquet_tables(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    try:
        packed = path.suffix.lower() in UNPACK
        with pq.ParquetFile(pa.BufferReader(b"".join(blocks_of(path))) if packed else path) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                part = min(ROWS_AT_A_TIME / max(group.num_rows, 1), 1)  # of its rows, that are read at a time
                chunks = map(group.column, range(group.num_columns))
                asked = (chunk for chunk in chunks if columns is None or chunk.path_in_schema.split(".")[0] in columns)
                _check_bytes(path, part * sum(chunk.total_uncompressed_size for chunk in asked))
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=columns):
                _check_bytes(path, batch.nbytes)
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({first}); expected a whole parquet file. Get it anew.") from error


def _check_bytes(path: Path, size: float) -> None:
    if size > _BYTES_OF_ROWS:
        raise ValueError(
            f"{path} holds rows of which {ROWS_AT_A_TIME} take {size / 2**30:.1f} GiB; expected at most "
            f"{_BYTES_OF_ROWS / 2**30:g} GiB, as of texts. Shorten them, or leave out columns that are no texts."
        )


def _txt_rows(open_text: Opener, whole: bool) -> Iterator[dict]:
    with open_text() as file:
        file.reconfigure(newline="\n")  # a carriage return alone ends no line
        for line in file:
            if line.strip() or not whole:
                yield {"text": line.rstrip("\r\n") if line.strip() else None}


def _csv_form(open_text: Opener, path: Path, delimiter: str | None) -> dict:
    """Arguments of `_csv_cells`: quotes are text where the file is broken with them, and only then whole."""
    csv.field_size_limit(_CHARACTERS_OF_A_CELL)
    if delimiter is None:
        with open_text() as file:
            line = next((line.rstrip("\r\n") for line in file if line.strip("\r\n")), "")
        delimiter = max(_DELIMITERS, key=lambda character: len(next(csv.reader([line], delimiter=character), [])))
    elif len(delimiter) != 1:
        raise ValueError(f"Found --delimiter {delimiter!r}; expected one character. Correct it.")
    faults = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        form = {"delimiter": delimiter, "quoting": quoting}
        try:
            deque(_csv_cells(open_text, **form), maxlen=0)
            return form
        except csv.Error as error:
            faults.append(error)
    raise ValueError(
        f"{path} cannot be read ({faults[0]}); expected a header line and as many cells in each row, separated by "
        f'{delimiter!r}, with texts that hold it in "quotes". Correct that line, or name another --delimiter.'
    ) from faults[0]


def _csv_cells(open_text: Opener, *, delimiter: str, quoting: int) -> Iterator[list[str]]:
    """The cells of each row, the header first; of a blank line behind it none."""
    width, line = 0, 1
    with open_text() as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
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
                    yield cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise csv.Error(f"line {line}: {error}") from error


def _csv_rows(open_text: Opener, path: Path, form: dict, whole: bool) -> Iterator[dict]:
    own = _without_quotes if form["quoting"] == csv.QUOTE_NONE else str
    rows = _csv_cells(open_text, **form)
    names = [own(name.strip()) for name in next(rows, [])]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"{path} names the column {twice[0]!r} twice; expected different names. Rename one.")
    for cells in rows:
        if cells or len(names) == 1 and not whole:
            row = zip_longest(names, map(own, cells), fillvalue="")
            yield {name: cell or None for name, cell in row if name}  # a delimiter may end each line


def _without_quotes(cell: str) -> str:
    """A cell that was quoted as a whole, without its quotes."""
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _json_rows(open_text: Opener, path: Path) -> Iterator[dict]:
    """Records line by line as they are needed, or those of a list, or of an object with one list of records."""
    with open_text() as file:
        first, *more = list(islice((line for line in file if line.strip()), 2)) or ["{}"]
    is_list, records = first.lstrip()[0] == "[", None
    if is_list or not more or not isinstance(_parsed(first), dict):
        with open_text() as file:
            records = _parsed(file.read(), path if is_list else None)
    if isinstance(records, dict):
        lists = [value for value in records.values() if isinstance(value, list) and [*map(type, value[:1])] == [dict]]
        records = lists[0] if len(lists) == 1 else [records]
    with open_text() as file:
        if not isinstance(records, list):
            records = (_parsed(line, path, number) for number, line in enumerate(file, start=1) if line.strip())
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                found = f"{path} holds a {type(record).__name__} as record {number}"
                raise ValueError(f'{found}; expected an object such as {{"text": "...", "label": "..."}}. Correct it.')
            yield record


def _parsed(text: str, path: Path | None = None, line: int = 1):
    """JSON that starts in a line of a file; without a file `None` for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        if path is None:
            return None
        line += getattr(error, "lineno", 1) - 1
        why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        raise ValueError(
            f"{path} is not valid JSON in line {line} ({why}); expected a list of objects, or one a line. Correct it."
        ) from error


def columns_to_table(columns: dict[str, list], source: str | Path, *, first_row: int = 0) -> pa.Table:
    """Columns to an Arrow table; one that it cannot hold is null, and `refusal` says why. `first_row` is for that."""
    arrays, fields = [], []
    for name, values in columns.items():
        why = None
        try:
            array = pa.array(values)
        except UnicodeEncodeError:
            row = first_row + next(row for row, value in enumerate(values) if not is_whole(str(value)))
            why = f"holds half of a character (a lone surrogate) in row {row}; expected whole ones"
        except (pa.ArrowException, TypeError, OverflowError) as error:
            rows = reversed([*enumerate(values, start=first_row)])
            first = {type(value).__name__: row for row, value in rows if value is not None}
            found = ", ".join(f"{kind} in row {row}" for kind, row in sorted(first.items(), key=lambda item: item[1]))
            why = f"mixes types ({found})" if len(first) > 1 else f"cannot be stored ({error})"
            why += "; expected texts or numbers of one type in all rows"
        arrays.append(pa.nulls(len(values)) if why else array)
        metadata = {_REFUSED: f"Column {name} of {source} {why}. Correct the rows."} if why else None
        fields.append(pa.field(name, arrays[-1].type, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


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
