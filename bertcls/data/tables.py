"""Tables from files: csv, tsv, json, jsonl, parquet and txt, compressed or not, in any encoding."""

import csv
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher

from bertcls.data.encoding import UNPACK, checked_encoding, decode, empty_file, open_text, unpacked
from bertcls.text import is_whole

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
ROWS_AT_A_TIME = 4096  # of a file that is streamed
_CHARACTERS_AT_A_TIME = 4_000_000  # of them
_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPEN = re.compile(r'\t"[^"\t]*$')  # a quoted cell that goes on in the next line
_REFUSED = b"bertcls.refused"  # columns that no table can hold, in an Arrow schema: {name: message}


def file_format(path: str | Path) -> str | None:
    """The suffix that says how a file is read, a compression's left out; `None` for another file.

    >>> file_format("train.csv.gz"), file_format("a.b/Test.JSONL"), file_format("model.bin")
    ('.csv', '.jsonl', None)
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in (*UNPACK, ".zip"):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_table(path: str | Path, *, encoding: str | None = None, delimiter: str | None = None) -> Dataset:
    """One file as a `Dataset` on disk, whose maps are cached until the file changes.

    A csv or tsv file has a header line, and its columns are strings: "NA" and "None" are words and an empty cell is
    missing. A json file holds a list of records, records line by line, or an object with one list of records. A txt
    file holds one text a line, in the column `text`. Blank lines are no rows.

    Args:
        path: the file; `.gz`, `.bz2`, `.xz` and `.zip` (of one file) are unpacked.
        encoding: `None` takes that of a byte order mark, UTF-8, or what the bytes look like, which is then said.
        delimiter: of a csv file; `None` takes the one that parts the header line into most columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, broken or of another kind; with the line where it can be known.
    """
    path = Path(path).expanduser()
    kind = _kind(path)
    content = unpacked(path)
    if not content.strip():
        raise empty_file(path)
    if kind == ".parquet":
        table = _parquet(content, path)
    else:
        text = decode(content, path, encoding)
        if not text.strip():
            raise empty_file(path)
        if kind == ".txt":
            table = pa.table({"text": [line.rstrip("\r") for line in text.split("\n") if line.strip()]})
        elif kind in (".csv", ".tsv"):
            delimiter = delimiter or ("\t" if kind == ".tsv" else None)
            table = next(_csv(partial(io.StringIO, text, newline=""), path, delimiter))
        else:
            table = _json(text, path)
    if table.num_columns == 0 and table.schema.metadata:
        raise ValueError(next(iter(json.loads(table.schema.metadata[_REFUSED]).values())))
    if table.num_rows == 0:
        raise _no_rows(path)
    stat = path.stat()
    return on_disk(table, [str(path.resolve()), stat.st_size, stat.st_mtime_ns, encoding, delimiter])


def stream_table(
    path: str | Path, *, encoding: str | None = None, delimiter: str | None = None
) -> Callable[[list[str] | None], Iterator[pa.Table]]:
    """The rows of `read_table`, some thousand at a time, in memory that does not grow with the file.

    But a blank line of a txt file, or of a csv file of one column, is a row without a text, so that a row keeps its
    number.

    A json file that is one list or one object is read whole, and so is a packed parquet file.

    Args:
        path: the file, as in `read_table`.
        encoding: as in `read_table`; the whole file is checked once, here.
        delimiter: as in `read_table`.

    Returns:
        a function that opens the file and gives its tables; called with names of columns, at least with these.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `read_table`; what is wrong with a row is raised when it is reached.
    """
    path = Path(path).expanduser()
    kind = _kind(path)
    if kind == ".parquet":
        tables = partial(_parquet_tables, path)
    else:
        opened = partial(open_text, path, checked_encoding(path, encoding))
        if kind == ".txt":
            tables = partial(_txt_tables, opened)
        elif kind in (".csv", ".tsv"):
            tables = partial(_csv, opened, path, delimiter or ("\t" if kind == ".tsv" else None), ROWS_AT_A_TIME)
        else:
            tables = partial(_json_tables, opened, path)
    if next(tables(), pa.table({})).num_rows == 0:
        raise _no_rows(path)
    return tables


def _kind(path: Path) -> str:
    """`file_format` of a file that is there and can be read."""
    kind = file_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file found at {path}; expected a {', '.join(SUFFIXES)} file. Check the path.")
    if kind is None:
        raise ValueError(
            f"{path} is of an unknown kind; expected the ending {', '.join(SUFFIXES)}, compressed or not. Rename it."
        )
    return kind


def _no_rows(path: Path) -> ValueError:
    return ValueError(f"{path} has columns but 0 rows; expected at least 1. Check the file.")


def on_disk(table: pa.Table, state: list) -> Dataset:
    """A table in the cache of datasets, named after `state`, so that what is mapped from it is cached, too."""
    name = Hasher.hash([state, Path(__file__).read_bytes()])
    path = Path(datasets.config.HF_DATASETS_CACHE) / "bertcls" / name / "data.arrow"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        os.replace(file.name, path)  # whole or not at all, also with several processes
    return with_refused(Dataset.from_file(str(path)), table)


def _parquet(content: bytes, path: Path) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _parquet_tables(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    packed = path.suffix.lower() != ".parquet"
    try:
        with pq.ParquetFile(pa.BufferReader(unpacked(path)) if packed else path) as file:
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=columns):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> ValueError:
    first = str(error).splitlines()[0]
    return ValueError(f"{path} cannot be read ({first}); expected a whole parquet file. Get it anew.")


def _txt_tables(open_text: Callable[[], TextIO], columns: list[str] | None = None) -> Iterator[pa.Table]:
    with open_text() as file:
        file.reconfigure(newline="\n")  # a carriage return alone ends no line
        texts = (line.rstrip("\r\n") if line.strip() else None for line in file)
        for part in in_slices(texts, lambda text: len(text or "")):
            yield pa.table({"text": pa.array(part, pa.string())})


def in_slices(items: Iterable, size_of: Callable[..., int]) -> Iterator[list]:
    """Items in lists of at most `ROWS_AT_A_TIME`, fewer where `size_of` them, in characters, adds up to much."""
    held, size = [], 0
    for item in items:
        held.append(item)
        size += size_of(item)
        if len(held) == ROWS_AT_A_TIME or size > _CHARACTERS_AT_A_TIME:
            yield held
            held, size = [], 0
    if held:
        yield held


def _csv(
    open_text: Callable[[], TextIO],
    path: Path,
    delimiter: str | None,
    rows: int | None = None,
    columns: list[str] | None = None,
) -> Iterator[pa.Table]:
    """Tables of `rows` rows, with those of blank lines, or of `None` one of all; of `columns`, or of all."""
    with open_text() as file:
        blank, head = next((number, line) for number, line in enumerate(file) if line.strip("\r\n"))
    if delimiter is None:
        line = head.rstrip("\r\n")
        delimiter = max(_DELIMITERS, key=lambda character: len(next(csv.reader([line], delimiter=character))))
    elif len(delimiter) != 1:
        raise ValueError(f"Found --delimiter {delimiter!r}; expected one character. Correct it.")
    plain = delimiter == "\t" and _is_plain(open_text)
    quoting = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    done = 0
    with open_text() as header_file, open_text() as file:
        try:
            lines = (line for line in header_file if line.strip("\r\n"))
            header = next(csv.reader(lines, delimiter=delimiter, quoting=quoting))
            blank_rows = rows is not None and len(header) == 1  # of more columns a blank line is no row of empty cells
            frames = pd.read_csv(
                file,
                sep=delimiter,
                dtype=str,
                keep_default_na=False,  # "NA" and "None" are words
                na_values=[""],
                index_col=False,
                header=blank if blank_rows else 0,
                skip_blank_lines=not blank_rows,
                quoting=quoting,
                iterator=True,
            )
            while (frame := _next_frame(frames, rows)) is not None:
                names = [_unquoted(cell.strip()) if plain else cell.strip() for cell in header]
                yield _frame_to_table(frame, [name or "" for name in names], path, plain, columns, done)
                done += len(frame)
        except (csv.Error, pd.errors.ParserWarning, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            reason = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split()).rstrip(".")
            raise ValueError(
                f"{path} cannot be read ({reason}); expected a header line and as many cells in each row, separated "
                f'by {delimiter!r}, with texts that hold it in "quotes". Correct that line, or name another '
                "--delimiter."
            ) from error


def _is_plain(open_text: Callable[[], TextIO]) -> bool:
    """Whether each line has its cells, so that a quotation mark is one of the text's own: a tab stands in no text."""
    with open_text() as file:
        lines = (line.rstrip("\r\n") for line in file if line.strip())
        tabs = (head := next(lines)).count("\t")
        return tabs > 0 and all(line.count("\t") == tabs and not _OPEN.search(line) for line in chain([head], lines))


def _next_frame(frames, rows: int | None) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
        try:
            return frames.read(rows)
        except StopIteration:
            return None


def _frame_to_table(
    frame: pd.DataFrame, header: list[str], path: Path, plain: bool, columns: list[str] | None, first_row: int
) -> pa.Table:
    cells = {}
    for number, name in enumerate(header):
        if columns is not None and name not in columns:
            continue
        values = [
            None if missing else value for value, missing in zip(frame.iloc[:, number], frame.iloc[:, number].isna())
        ]
        if plain:
            values = [_unquoted(value) for value in values]
        if name == "" and not any(values):
            continue  # a delimiter at the end of each line
        if name in cells:
            raise ValueError(
                f"{path} names the column {name!r} twice in its header line; expected different names. Rename one."
            )
        cells[name] = values
    return columns_to_table(cells, path, first_row=first_row)


def _unquoted(value: str | None) -> str | None:
    """A cell that was quoted as a whole, without its quotes."""
    if value is not None and _QUOTED.fullmatch(value):
        return value[1:-1].replace('""', '"') or None
    return value


def _json(text: str, path: Path) -> pa.Table:
    """A list of records, an object with one list of records, or one record a line."""
    rows = None
    try:
        whole = json.loads(text)
    except RecursionError as error:
        raise _too_deep(path) from error
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise ValueError(
                f"{path} is not valid JSON in line {error.lineno} ({error.msg}); expected a list of objects. Correct "
                "that line."
            ) from error
        whole = None
    if isinstance(whole, list):
        rows = whole
    elif isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        rows = lists[0] if len(lists) == 1 else [whole]
    if rows is None:
        rows = _json_records(text.split("\n"), path)
    rows = [_checked_record(row, number, path) for number, row in enumerate(rows)]
    return _records_to_table(rows, path)


def _json_tables(open_text: Callable[[], TextIO], path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Records line by line as they are needed; another form is read whole."""
    with open_text() as file:
        head = list(islice((line for line in file if line.strip()), 2))
    try:
        by_line = len(head) == 2 and all(isinstance(json.loads(line), dict) for line in head)
    except (json.JSONDecodeError, RecursionError):
        by_line = False
    with open_text() as file:
        file.reconfigure(newline="\n")
        if not by_line:
            yield _json(file.read(), path)
            return
        done = line_number = 0
        for lines in in_slices(file, len):
            rows = [
                _checked_record(row, number, path)
                for number, row in enumerate(_json_records(lines, path, first_line=line_number + 1), start=done)
            ]
            if rows:
                yield _records_to_table(rows, path, columns, first_row=done)
            done, line_number = done + len(rows), line_number + len(lines)


def _json_records(lines: list[str], path: Path, *, first_line: int = 1) -> Iterator:
    for number, line in enumerate(lines, start=first_line):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path} is not valid JSON in line {number} ({error.msg}); expected one object a line. "
                    "Correct that line."
                ) from error
            except RecursionError as error:
                raise _too_deep(path) from error


def _checked_record(row, number: int, path: Path) -> dict:
    if not isinstance(row, dict):
        raise ValueError(
            f"{path} holds a {type(row).__name__} as record {number}; expected an object such as "
            '{"text": "...", "label": "..."}. Correct it.'
        )
    return row


def _records_to_table(
    rows: list[dict], path: Path, columns: list[str] | None = None, *, first_row: int = 0
) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row) if columns is None else columns
    return columns_to_table({name: [row.get(name) for row in rows] for name in names}, path, first_row=first_row)


def _too_deep(path: Path) -> ValueError:
    return ValueError(f"{path} is not valid JSON (nested too deeply); expected flat objects. Correct it.")


def columns_to_table(columns: dict[str, list], source: str | Path, *, first_row: int = 0) -> pa.Table:
    """Columns to an Arrow table. One that it cannot hold is left out; `refused` says why, if it is asked for.

    `first_row` is the number of the first of these rows in `source`.
    """
    arrays, refused = {}, {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values)
        except UnicodeEncodeError:
            row = first_row + next(row for row, value in enumerate(values) if not is_whole(str(value)))
            refused[name] = (
                f"Column {name} of {source} holds half of a character (a lone surrogate) in row {row}; expected whole "
                "characters. Export the file again as UTF-8."
            )
        except (pa.ArrowException, TypeError, OverflowError) as error:
            numbered = reversed([*enumerate(values, start=first_row)])
            first = {type(value).__name__: row for row, value in numbered if value is not None}
            found = ", ".join(f"{kind} in row {row}" for kind, row in sorted(first.items(), key=lambda item: item[1]))
            refused[name] = (
                f"Column {name} of {source} mixes types ({found})"
                if len(first) > 1
                else f"Column {name} of {source} cannot be stored ({error})"
            ) + "; expected texts or numbers of one type in all rows. Correct the rows."
    table = pa.table(arrays)
    return table.replace_schema_metadata({_REFUSED: json.dumps(refused)}) if refused else table


def with_refused(dataset: Dataset, table: pa.Table) -> Dataset:
    """The data set of a table of `columns_to_table`, which knows what the table could not hold."""
    dataset.info.description = (table.schema.metadata or {}).get(_REFUSED, b"").decode()
    return dataset


def refused(dataset: Dataset) -> dict[str, str]:
    """Columns of the source that the table could not hold, and what is wrong with each."""
    description = dataset.info.description
    return json.loads(description) if description.startswith('{"') else {}
