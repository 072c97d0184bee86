"""Texts of any number of rows, in memory that does not grow with them."""

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from bertcls.data.tables import ROWS_AT_A_TIME, join_tables, refusal

KEPT = "kept:"  # before the names of columns that are handed on
_DEEPEST = 50  # lists in lists; parquet files end at some hundred


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
    streaming: bool = False,
    rows: int = 4096,
    keep: bool = False,
) -> Callable[[], Iterator[pa.Table]]:
    """A function that opens a source of `load_splits` and gives its texts in tables of `rows` rows, the last shorter.

    They have the columns `id` (of `id_column`, or the rows counted from 0), `text` and, for pairs, `text_pair`, null
    where it is missing; with `keep` also all columns of the source, each named `KEPT` and its name. Files are read
    piece by piece, a data set of the Hub from a copy on disk, or with `streaming` without one. What is wrong with a
    later row is raised when it is reached.
    """
    from bertcls.data.folders import SPLIT_OF, Files, find_splits  # datasets: who labels one text waits for nothing
    from bertcls.data.load import find_columns

    found = find_splits(source, config_name, streaming=streaming)
    wanted = next(iter(found)) if split is None and len(found) == 1 else split
    if (wanted := SPLIT_OF.get(wanted, wanted)) not in found:
        names, asked = ", ".join(found) or "no splits", f", not {split}" if split else ""
        raise ValueError(f"Found {names} in {source}{asked}; expected one split. Name one with --split.")
    data, where = found[wanted], source if len(found) == 1 else f"{wanted} of {source}"
    is_files = isinstance(data, Files)
    for option, value in (("encoding", encoding), ("delimiter", delimiter)):
        if value and not is_files:
            raise ValueError(f"Found --{option} with {where}; expected a file, else it does nothing. Leave it out.")
    tables = data.rows(encoding=encoding, delimiter=delimiter) if is_files else partial(_dataset_tables, data)
    first = next(tables(), pa.table({}))
    if first.num_rows == 0:
        raise ValueError(f"Found no rows in {where}; expected at least 1. Check the file.")
    columns = {"text": text_column, "text_pair": text_pair_column, "id": id_column}
    columns = find_columns(first.schema, columns, where)
    id_type = first.schema.field(columns["id"]).type if "id" in columns else pa.int64()

    def open_rows() -> Iterator[pa.Table]:
        done, held, size = 0, [], 0
        for table in tables(None if keep else sorted({*columns.values()})):
            held.append(_in_form(table, columns, id_type, where, done, keep))
            done, size = done + len(table), size + len(table)
            while size >= rows:
                whole = join_tables(held, where)
                yield whole.slice(0, rows)
                held, size = [whole.slice(rows)], size - rows
        if size:
            yield join_tables(held, where)

    return open_rows


def _dataset_tables(dataset, columns: list[str] | None = None) -> Iterator[pa.Table]:
    yield from (dataset.select_columns(columns) if columns else dataset).with_format("arrow").iter(ROWS_AT_A_TIME)


def _in_form(
    table: pa.Table, columns: dict[str, str], id_type: pa.DataType, where: str, done: int, keep: bool
) -> pa.Table:
    """The columns of `stream_rows` from the table that follows on `done` rows, of one type each in all."""
    from bertcls.data.load import find_columns

    here = f"{where}, row {done} and on,"
    for name in {*columns.values()} - {*table.column_names} if keep else ():  # of records that lack them
        table = table.append_column(name, pa.nulls(len(table)))
    find_columns(table.schema, columns, here)
    arrays = {"id": pa.array(range(done, done + len(table)), pa.int64())}
    for role, name in columns.items():
        kind = table.schema.field(name).type
        if role == "id" and kind not in (id_type, pa.null()):
            raise ValueError(
                f"Column {name} of {here} holds {kind}, expected {id_type}. Name another --id_column, or store one "
                "type in all rows."
            )
        arrays[role] = table[name].cast(id_type if role == "id" else pa.string())
    for name, column in zip(table.column_names, table.columns) if keep else ():
        kinds, deep = [column.type], None
        for _ in range(_DEEPEST):
            if any(pa.types.is_struct(kind) and not kind.num_fields for kind in kinds):
                deep = f"Column {name} of {here} holds records without a field, which parquet cannot; expected some."
            kinds = [kind.field(place).type for kind in kinds for place in range(kind.num_fields)]
        deep = f"Column {name} of {here} nests lists over {_DEEPEST} deep; expected fewer." if kinds else deep
        if why := refusal(table.schema, name) or deep:
            raise ValueError(f"{why} Or give --keep_columns false.")
        while f"{KEPT}{name}" in arrays:  # a parquet file may have a name twice
            name += "_2"
        if name != "id" or columns.get("id") != "id":
            arrays[f"{KEPT}{name}"] = column
    return pa.table(arrays)
