"""Tables from files: csv, tsv, json, jsonl, parquet and txt, compressed or not, in any encoding."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from charset_normalizer import from_bytes
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers.utils import logging

logger = logging.get_logger(__name__)

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_ENCODINGS = ["gb18030", "big5", "shift_jis", "euc_kr", "cp1251", "cp1252"]  # told apart by the letters they give
_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPEN = re.compile(r'\t"[^"\t]*$')  # a quoted cell that goes on in the next line
_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = b"bertcls.refused"  # columns that no table can hold, in an Arrow schema: {name: message}


def warn(message: str) -> None:
    """Logs a warning on the first process of a run."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(message)


def file_format(path: str | Path) -> str | None:
    """The suffix that says how a file is read, a compression's left out; `None` for another file.

    >>> file_format("train.csv.gz"), file_format("a.b/Test.JSONL"), file_format("model.bin")
    ('.csv', '.jsonl', None)
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in (*_UNPACK, ".zip"):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_table(path: str | Path, *, encoding: str | None = None, delimiter: str | None = None) -> Dataset:
    """One file as a `Dataset` on disk, whose maps are cached until the file changes.

    A csv or tsv file has a header line, and its columns are strings: "NA" and "None" are words and an empty cell is
    missing. A json file holds a list of records, records line by line, or an object with one list of records. A txt
    file holds one text a line, in the column `text`.

    Args:
        path: the file; `.gz`, `.bz2`, `.xz` and `.zip` (of one file) are unpacked.
        encoding: `None` takes that of a byte order mark, UTF-8, or what the bytes look like, which is then said.
        delimiter: of a csv file; `None` takes the one that parts the header line into most columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, broken or of another kind; with the line where it can be known.
    """
    path = Path(path).expanduser()
    kind = file_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file found at {path}; expected a {', '.join(SUFFIXES)} file. Check the path.")
    if kind is None:
        raise ValueError(
            f"{path} is of an unknown kind; expected the ending {', '.join(SUFFIXES)}, compressed or not. Rename it."
        )
    content = _unpacked(path)
    if not content.strip():
        raise ValueError(f"{path} is empty; expected at least one row. Check the file.")
    if kind == ".parquet":
        table = _parquet(content, path)
    else:
        text = decode(content, path, encoding)
        if not text.strip():
            raise ValueError(f"{path} is empty; expected at least one row. Check the file.")
        if kind == ".txt":
            table = pa.table({"text": [line.rstrip("\r") for line in text.split("\n") if line.strip()]})
        elif kind in (".csv", ".tsv"):
            table = _csv(text, path, delimiter or ("\t" if kind == ".tsv" else None))
        else:
            table = _json(text, path)
    if table.num_columns == 0 and table.schema.metadata:
        raise ValueError(next(iter(json.loads(table.schema.metadata[_REFUSED]).values())))
    if table.num_rows == 0:
        raise ValueError(f"{path} has columns but 0 rows; expected at least 1. Check the file.")
    stat = path.stat()
    return on_disk(table, [str(path.resolve()), stat.st_size, stat.st_mtime_ns, encoding, delimiter])


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


def decode(content: bytes, path: Path, encoding: str | None = None) -> str:
    """Bytes to text.

    Raises:
        ValueError: an unknown encoding, bytes that are not text in it, or null bytes, the sign of a binary file.

    >>> decode("naïve".encode("utf-8-sig"), Path("a.csv"))
    'naïve'
    """
    if encoding is None:
        encoding = _encoding(content, path)
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise ValueError(
            f"Found --encoding {encoding}; expected one that Python knows, such as utf-8, gb18030 or latin-1. Correct "
            "it."
        ) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not {encoding}: byte {error.object[error.start : error.start + 1].hex()} in line {line} has "
            "no meaning there; expected text. Name another --encoding."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path} holds a null byte in line {line}; expected text. It may be a binary file, or UTF-16 without a "
            "byte order mark (--encoding utf-16-le)."
        )
    return text


def _encoding(content: bytes, path: Path) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return name
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        if b"\0" in content:
            return "latin-1"  # binary, which `decode` refuses
        text = content.decode("utf-8", errors="replace")
        if text.count("\ufffd") * 10 < sum(ord(character) > 127 for character in text):
            return "utf-8"  # but for a few bytes, which `decode` reports
        start = content.rfind(b"\n", 0, error.start) + 1
        part = content[start : start + 1_000_000]  # from the first line that is not UTF-8
        part = part[: part.rfind(b"\n") + 1] or part  # whole lines: half a character fits no encoding
    found = from_bytes(part, cp_isolation=_ENCODINGS, enable_fallback=False).best()
    name = "latin-1" if found is None else found.encoding
    warn(f"{path} is not UTF-8; it is read as {name}, which its bytes look like (--encoding overrules).")
    return name


def _unpacked(path: Path) -> bytes:
    content, suffix = path.read_bytes(), path.suffix.lower()
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX/" not in name]
                if len(names) != 1:
                    raise ValueError(f"it holds {len(names)} files")
                return archive.read(names[0])
        return _UNPACK[suffix](content) if suffix in _UNPACK else content
    except (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be unpacked ({error}); expected a whole {suffix} file with one file in it, without a "
            "password. Unpack it, or get it anew."
        ) from error


def _parquet(content: bytes, path: Path) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({first}); expected a whole parquet file. Get it anew.") from error


def _csv(text: str, path: Path, delimiter: str | None) -> pa.Table:
    text = text.lstrip("\r\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if delimiter is None:
        head = text.split("\n", 1)[0]
        delimiter = max(_DELIMITERS, key=lambda character: len(next(csv.reader([head], delimiter=character))))
    elif len(delimiter) != 1:
        raise ValueError(f"Found --delimiter {delimiter!r}; expected one character. Correct it.")
    # A tab stands in no text: where each line has its cells, a quotation mark is one of the text's own.
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    tabs = lines[0].count("\t") if delimiter == "\t" else 0
    plain = tabs > 0 and all(line.count("\t") == tabs and not _OPEN.search(line) for line in lines)
    quoting = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=delimiter,
                dtype=str,
                keep_default_na=False,  # "NA" and "None" are words
                na_values=[""],
                index_col=False,
                quoting=quoting,
            )
    except (csv.Error, pd.errors.ParserWarning, ValueError) as error:  # pandas' ParserError is a ValueError
        reason = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split()).rstrip(".")
        raise ValueError(
            f"{path} cannot be read ({reason}); expected a header line and as many cells in each row, separated by "
            f'{delimiter!r}, with texts that hold it in "quotes". Correct that line, or name another --delimiter.'
        ) from error
    columns = {}
    for number, name in enumerate(_unquoted(cell.strip()) if plain else cell.strip() for cell in header):
        name = name or ""
        values = [
            None if missing else value for value, missing in zip(frame.iloc[:, number], frame.iloc[:, number].isna())
        ]
        if plain:
            values = [_unquoted(value) for value in values]
        if name == "" and not any(values):
            continue  # a delimiter at the end of each line
        if name in columns:
            raise ValueError(
                f"{path} names the column {name!r} twice in its header line; expected different names. Rename one."
            )
        columns[name] = values
    return columns_to_table(columns, path)


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
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path} is not valid JSON in line {number} ({error.msg}); expected one object a line. "
                        "Correct that line."
                    ) from error
                except RecursionError as error:
                    raise _too_deep(path) from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path} holds a {type(row).__name__} as record {number}; expected an object such as "
                '{"text": "...", "label": "..."}. Correct it.'
            )
    names = dict.fromkeys(name for row in rows for name in row)
    return columns_to_table({name: [row.get(name) for row in rows] for name in names}, path)


def _too_deep(path: Path) -> ValueError:
    return ValueError(f"{path} is not valid JSON (nested too deeply); expected flat objects. Correct it.")


def columns_to_table(columns: dict[str, list], source: str | Path) -> pa.Table:
    """Columns to an Arrow table. One that it cannot hold is left out; `refused` says why, if it is asked for."""
    arrays, refused = {}, {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values)
        except UnicodeEncodeError:
            row = next(row for row, value in enumerate(values) if _SURROGATE.search(str(value)))
            refused[name] = (
                f"Column {name} of {source} holds half of a character (a lone surrogate) in row {row}; expected whole "
                "characters. Export the file again as UTF-8."
            )
        except (pa.ArrowException, TypeError, OverflowError) as error:
            first = {type(value).__name__: row for row, value in reversed([*enumerate(values)]) if value is not None}
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
