"""Texts of any number of rows, in memory that does not grow with them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from bertcls.data.encoding import decode
from bertcls.data.folders import SPLIT_OF, class_folders, declares_files, load_declared, named_files
from bertcls.data.load import TEXT_COLUMNS, find_column
from bertcls.data.tables import ROWS_AT_A_TIME, in_slices, refused, stream_table, with_refused


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
    columns = {"text": find_column(shown, text_column, TEXT_COLUMNS, "--text_column", where)}
    if text_pair_column is not None:
        columns["text_pair"] = find_column(shown, text_pair_column, (), "--text_pair_column", where)
    if columns.get("text_pair") == columns["text"]:
        raise ValueError(
            f"Found the column {columns['text']} for both texts of a pair; expected different ones. Correct "
            "--text_column or --text_pair_column."
        )
    id_type = pa.int64()
    if id_column is not None:
        columns["id"] = find_column(shown, id_column, (), "--id_column", where)
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
    if path.is_dir() and not declares_files(path):
        found = named_files(path) or ({None: path} if class_folders(path) else {})
    if not found:
        loaded = load_declared(source, config_name, revision, streaming=streaming)
        found = {SPLIT_OF.get(name, name): dataset for name, dataset in loaded.items()}
    wanted = SPLIT_OF.get(split, split)
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
    files = [(file, name) for name, files in class_folders(folder).items() for file in files]
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
