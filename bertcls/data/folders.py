"""Files, folders, data in memory and data sets of the Hub: which files make which split, and their rows."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher
from yaml import YAMLError

from bertcls.data.encoding import checked_text
from bertcls.data.labels import natural_key
from bertcls.data.tables import SUFFIXES, columns_to_table, file_format, row_tables, stream_table
from bertcls.process import whole_file

SPLITS = ("train", "validation", "test")
SPLIT_OF = {"valid": "validation", "val": "validation", "dev": "validation"}


def find_splits(source, config_name: str | None, revision: str | None, *, streaming: bool = False) -> dict:
    """The splits of what `load_splits` reads, under their usual names: data sets, or paths for `rows_of`."""
    if isinstance(source, pd.DataFrame):
        if (twice := source.columns[source.columns.duplicated()]).size:
            raise ValueError(f"Found the column {twice[0]!r} twice in the DataFrame; expected different names.")
        cells = {str(name): source[name].astype(object).where(source[name].notna(), None) for name in source}
        table = columns_to_table({name: column.tolist() for name, column in cells.items()}, "the DataFrame")
        found = {"train": Dataset(table)}
    elif isinstance(source, Dataset | DatasetDict):
        found = {"train": source} if isinstance(source, Dataset) else source
    else:
        path = Path(source).expanduser()
        found = {"train": path} if path.is_file() else {}
        if path.is_dir() and not _declares_files(path):
            found = _named_files(path) or ({"train": path} if _class_folders(path) else {})
        found = found or _load_declared(str(source), path, config_name, revision, streaming)
    splits = {SPLIT_OF.get(name, name): split for name, split in found.items()}
    if len(splits) < len(found):
        raise ValueError(f"Found the splits {', '.join(found)}; expected one for validation. Remove or rename one.")
    return splits


def _load_declared(source: str, path: Path, config_name: str | None, revision: str | None, streaming: bool):
    """A data set of the Hub, or a folder in its layout, as datasets loads it."""
    missing = (
        f"No data set found at {source!r}; expected a Hub id, a file ({', '.join(SUFFIXES)}) or a folder in the Hub's "
        "layout. Check the spelling, or download it once where there is a network."
    )
    if not path.is_dir() and (source.startswith((".", "/", "~")) or file_format(source)):
        raise FileNotFoundError(missing)
    # for datasets 5.2 a folder stays the same when data files change that its README.md names: each state has a cache
    own = {"path": str(path), "cache_dir": str(_cached("", sorted(path.rglob("*"))))} if path.is_dir() else {}
    try:
        return load_dataset(**{"path": source, "revision": revision} | own, name=config_name, streaming=streaming)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{missing} ({str(error).splitlines()[0]})") from error
    except (DatasetGenerationError, ValueError, StopIteration, RuntimeError, YAMLError) as error:
        why = error.__cause__ or error or "an empty file"
        raise ValueError(f"{source} cannot be read ({why}); expected rows as its README.md declares them.") from error


def rows_of(
    path: Path, *, encoding: str | None, delimiter: str | None, whole: bool = False
) -> Callable[..., Iterator]:
    """`stream_table` of a file, or of a folder of txt files per class with the columns file, text and label."""
    if not path.is_dir():
        return stream_table(path, encoding=encoding, delimiter=delimiter, whole=whole)
    folders = _class_folders(path)
    if not folders:
        raise ValueError(f"{path} is a folder without classes; expected a file, or a folder of txt files per class.")

    def rows() -> Iterator[dict]:
        for label, files in folders.items():
            for file in files:
                with checked_text(file, encoding)() as text:
                    yield {"file": str(file.relative_to(path)), "text": text.read(), "label": label}

    return partial(row_tables, rows, path)


def read_rows(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Dataset:
    """The rows of `rows_of` on disk, so that maps of them are cached until a file changes."""
    tables = rows_of(path, encoding=encoding, delimiter=delimiter, whole=True)
    table = pa.concat_tables(tables(), promote_options="default")
    file = _cached([encoding, delimiter], [path, *sorted(path.glob("*/*.txt"))]) / "data.arrow"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished, pa.ipc.new_stream(str(unfinished), table.schema) as writer:
            writer.write_table(table)
    return Dataset.from_file(str(file))


def _cached(options, files: list[Path]) -> Path:
    """A folder in the cache of datasets for what is read of files in their present state."""
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return Path(datasets.config.HF_DATASETS_CACHE) / "bertcls" / Hasher.hash([options, state, code])


def _declares_files(folder: Path) -> bool:
    """Whether a README.md says which files make which split, in the Hub's way."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    return head.startswith("---") and ("configs:" in head or "dataset_info:" in head)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """txt files per class of a folder of folders; without `unsup`, the unlabelled texts of IMDB's archive."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: sorted(path.glob("*.txt"), key=lambda file: natural_key(file.name)) for path in inside}
    files.pop("unsup", None)
    return files if files and all(files.values()) else {}


def _named_files(folder: Path) -> dict[str, Path]:
    """Files or class folders of a folder that are named after a split."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0].lower()
        name = SPLIT_OF.get(name, name)
        if name in SPLITS and (_class_folders(path) if path.is_dir() else file_format(path)):
            if name in found:
                raise ValueError(
                    f"Found {found[name].name} and {path.name} in {folder}; expected one file for the {name} split. "
                    f"Remove one, or name it with --{name}_file."
                )
            found[name] = path
    return found
