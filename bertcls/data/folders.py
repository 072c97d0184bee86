"""Folders and data sets of the Hub: which files make which split, and their rows."""

from pathlib import Path

import datasets
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher
from yaml import YAMLError

from bertcls.data.encoding import decode
from bertcls.data.labels import natural_key
from bertcls.data.tables import SUFFIXES, columns_to_table, file_format, on_disk, read_table

SPLIT_OF = {"valid": "validation", "val": "validation", "dev": "validation"}
SPLITS = ("train", "validation", "test")


def load_declared(source: str, config_name: str | None, revision: str | None, *, streaming: bool = False):
    """The splits of a Hub id, or of a folder in the Hub's layout, as datasets loads them."""
    path = Path(source).expanduser()
    missing = (
        f"No data set found at {source!r}; expected a Hub id, a file ({', '.join(SUFFIXES)}) or a folder in the Hub's "
        "layout. Check the spelling, or download it once where there is a network."
    )
    if not path.is_dir() and (source.startswith((".", "/", "~")) or file_format(source)):
        raise FileNotFoundError(missing)
    try:
        if path.is_dir():
            return load_dataset(str(path), config_name, cache_dir=_cache_dir(path), streaming=streaming)
        return load_dataset(source, config_name, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{missing} ({str(error).splitlines()[0]})") from error
    except (DatasetGenerationError, ValueError, StopIteration, RuntimeError, YAMLError) as error:
        raise ValueError(
            f"{source} cannot be read ({error.__cause__ or error or 'an empty file'}); expected files with at least "
            "one row each, in the form that its README.md declares. Correct the file."
        ) from error


def declares_files(folder: Path) -> bool:
    """Whether a README.md says which files make which split, in the Hub's way."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    return head.startswith("---") and ("configs:" in head or "dataset_info:" in head)


def read_rows(path: Path, encoding: str | None, delimiter: str | None) -> Dataset:
    """A file, or a folder with a folder of txt files per class."""
    if not path.is_dir():
        return read_table(path, encoding=encoding, delimiter=delimiter)
    folders = class_folders(path)
    if not folders:
        raise ValueError(f"{path} is a folder without classes; expected a file, or a folder of txt files per class.")
    rows = [(file, name) for name, files in folders.items() for file in files]
    texts = [decode(file.read_bytes(), file, encoding) for file, _ in rows]
    table = columns_to_table({"text": texts, "label": [name for _, name in rows]}, path)
    return on_disk(table, [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file, _ in rows] + [encoding])


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """txt files per class of a folder of folders; without `unsup`, the unlabelled texts of IMDB's archive."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: sorted(path.glob("*.txt"), key=lambda file: natural_key(file.name)) for path in inside}
    files.pop("unsup", None)
    return files if files and all(files.values()) else {}


def named_files(folder: Path) -> dict[str, Path]:
    """Files or class folders of a folder that are named after a split."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0].lower()
        name = SPLIT_OF.get(name, name)
        if name in SPLITS and (class_folders(path) if path.is_dir() else file_format(path)):
            if name in found:
                raise ValueError(
                    f"Found {found[name].name} and {path.name} in {folder}; expected one file for the {name} split. "
                    "Remove one, or name it with --train_file, --validation_file or --test_file."
                )
            found[name] = path
    return found


def _cache_dir(folder: Path) -> str:
    """A cache of its own for each state of a local folder.

    datasets 5.2 does not look at the data files of a folder whose README.md names them, and would load the rows of
    before an edit.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(datasets.config.HF_DATASETS_CACHE / "bertcls" / Hasher.hash(state))
