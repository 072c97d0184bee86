"""Files, folders, data in memory and data sets of the Hub: which files make which split, and their rows."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import yaml
from datasets import Dataset, DatasetDict, Features, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher
from datasets.table import table_cast
from yaml import YAMLError

from bertcls.data.encoding import checked_text
from bertcls.data.labels import natural_key
from bertcls.data.tables import SUFFIXES, Rows, columns_to_table, file_format, names_twice, stream_table
from bertcls.process import code_digest, warn, whole_file

SPLITS = ("train", "validation", "test")
SPLIT_OF = {"valid": "validation", "val": "validation", "dev": "validation"}
_PART_OF_A_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)[-_. ]?\d", re.IGNORECASE)
_CANNOT_BE_READ = (DatasetGenerationError, ValueError, StopIteration, RuntimeError, YAMLError)


@dataclass
class Files:
    """The files of a split, or a folder of txt files per class; with the types that a README.md declares."""

    paths: list[Path]
    features: Features | None = None
    encoding: str | None = None
    delimiter: str | None = None

    def rows(self, *, encoding: str | None = None, delimiter: str | None = None, whole: bool = False) -> Rows:
        """Their rows; of a folder of txt files per class with the columns file, text and label."""
        encoding, path = encoding or self.encoding, self.paths[0]
        if not path.is_dir():
            return stream_table(self.paths, encoding=encoding, delimiter=delimiter or self.delimiter, whole=whole)
        if not (folders := _class_folders(path)):
            raise ValueError(
                f"{path} is a folder without classes; expected a file, or a folder of txt files per class."
            )

        def records() -> Iterator[tuple[str, dict]]:
            for label, files in folders.items():
                for file in files:
                    name = str(file.relative_to(path))
                    with checked_text(file, encoding)() as text:
                        yield name, {"file": name, "text": text.read(), "label": label}

        return Rows([path], [records])

    def read(self, **options) -> tuple[Dataset, Rows]:
        """All rows on disk, so that maps of them are cached until a file changes, and as `rows` gives them."""
        rows = self.rows(whole=True, **options)
        try:
            table = pa.concat_tables(rows(), promote_options="default")
            if self.features is not None:
                own = Features.from_arrow_schema(table.schema)
                types = Features({name: self.features.get(name, own[name]) for name in table.column_names})
                table = table_cast(table, types.arrow_schema)
        except (pa.ArrowException, ValueError) as error:
            if not isinstance(error, pa.ArrowException) and self.features is None:
                raise
            why = str(error).splitlines()[0]
            expected = "expected columns of one type in all files, as README.md declares them if it does"
            raise ValueError(f"{self.paths[0].parent} cannot be read ({why}); {expected}.") from error
        inside = [file for path in self.paths for file in path.glob("*/*.[tT][xX][tT]")]
        file = _cached([options, vars(self)], [*self.paths, *sorted(inside)]) / "data.arrow"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as unfinished, pa.ipc.new_stream(str(unfinished), table.schema) as writer:
                writer.write_table(table)
        return Dataset.from_file(str(file)), rows


def find_splits(source, config_name: str | None, revision: str | None = None, *, streaming: bool = False) -> dict:
    """The splits of what `load_splits` reads, under their usual names: data sets or `Files`."""
    if isinstance(source, pd.DataFrame):
        names, cells = [*map(str, source.columns)], source.astype(object).where(source.notna(), None)
        columns = {name: cells.iloc[:, place].tolist() for place, name in enumerate(names)}
        places = [f"row {row}" for row in range(len(source))]
        found = {"train": Dataset(columns_to_table(columns, "the DataFrame", places, twice=names_twice(names)))}
    elif isinstance(source, Dataset | DatasetDict):
        source = source.with_format(None)  # what set_format left out is there, and as Python has it
        found = {"train": source} if isinstance(source, Dataset) else source
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        found = {"train": Files([path])} if path.is_file() else _of_folder(path) if path.is_dir() else {}
        found = found or _load_declared(str(source), path, config_name, revision, streaming)
    else:
        raise ValueError(
            f"Found a {type(source).__name__} as data; expected a Hub id, a path, a DataFrame, a Dataset or a "
            "DatasetDict. Rows become one by Dataset.from_list(rows), columns by Dataset.from_dict(columns)."
        )
    splits = {SPLIT_OF.get(name, name): split for name, split in found.items()}
    if len(splits) < len(found):
        raise ValueError(f"Found the splits {', '.join(found)}; expected one for validation. Remove or rename one.")
    return splits


def _of_folder(path: Path) -> dict:
    """What `save_to_disk` wrote, files named after splits, or a folder per class; none where datasets finds them."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        try:
            saved = load_from_disk(str(path)).with_format(None)
        except (*_CANNOT_BE_READ, OSError, LookupError, TypeError, AttributeError) as error:
            expected = "expected what Dataset.save_to_disk wrote. Save it anew"
            raise ValueError(f"{path} cannot be read ({error}); {expected}.") from error
        return {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    card = path / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    if head.startswith("---") and ("configs:" in head or "dataset_info:" in head):
        with suppress(YAMLError):  # of which datasets says where; some lines of aliases can fill the memory
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(head)):
                raise ValueError(f"{card} refers to parts of itself (*name); expected plain lists. Write them out.")
        return {}  # it says which files make which split, in the Hub's way
    return _named_files(path) or ({"train": Files([path])} if _class_folders(path) else {})


def _load_declared(source: str, path: Path, config_name: str | None, revision: str | None, streaming: bool):
    """A data set of the Hub as datasets loads it, or a folder in its layout, whose files our reader reads."""
    missing = (
        f"No data set found at {source!r}; expected a Hub id, a file ({', '.join(SUFFIXES)}) or a folder in the Hub's "
        "layout. Check the spelling, or download it once where there is a network."
    )
    if not path.is_dir() and (source.startswith((".", "/", "~")) or file_format(source)):
        raise FileNotFoundError(missing)
    # for datasets 5.2 a folder stays the same when data files change that its README.md names: each state has a cache
    own = {"path": str(path), "cache_dir": str(_cached("", sorted(path.rglob("*"))))} if path.is_dir() else {}
    arguments = {"path": source, "revision": revision, "name": config_name} | own
    try:
        found = _layout(load_dataset_builder(**arguments)) if own else {}
        return found or load_dataset(**arguments, streaming=streaming)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{missing} ({str(error).splitlines()[0]})") from error
    except _CANNOT_BE_READ as error:
        why = error.__cause__ or error or "an empty file"
        raise ValueError(f"{source} cannot be read ({why}); expected rows as its README.md declares them.") from error


def _layout(builder: datasets.DatasetBuilder) -> dict[str, Files]:
    """The files of each split of a folder; none where it asks for what our reader does not do."""
    config, usual = vars(builder.config), vars(type(builder.config)())
    own = usual.keys() - vars(datasets.BuilderConfig()) - {"features"}
    options = {name: config[name] for name in own if config[name] != usual[name]}
    paths = {name: [*map(Path, files)] for name, files in (config["data_files"] or {}).items()}
    known = all(path.is_file() and file_format(path) for files in paths.values() for path in files)
    if not known or options.keys() - {"sep", "delimiter", "encoding"}:
        return {}
    delimiter, encoding = options.get("sep"), options.get("encoding")
    return {name: Files(files, builder.info.features, encoding, delimiter) for name, files in paths.items()}


def _cached(options, files: list[Path]) -> Path:
    """A folder in the cache of datasets for what is read of files in their present state."""
    states = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
    state = [(path, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for path, one in states]  # touch can set mtime
    return Path(datasets.config.HF_DATASETS_CACHE) / "bertcls" / Hasher.hash([options, state, code_digest()])


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """txt files per class of a folder of folders; without `unsup`, the unlabelled texts of IMDB's archive."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    texts = {path.name: [file for file in path.iterdir() if file.suffix.lower() == ".txt"] for path in inside}
    files = {name: sorted(found, key=lambda file: natural_key(file.name)) for name, found in texts.items()}
    files.pop("unsup", None)
    return files if files and all(files.values()) else {}


def _named_files(folder: Path) -> dict[str, Files]:
    """Files or class folders of a folder that are named after a split."""
    found: dict[str, Files] = {}
    others = []
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0].lower()
        name = SPLIT_OF.get(name, name)
        if name in SPLITS and (_class_folders(path) if path.is_dir() else file_format(path)):
            if name in found:
                raise ValueError(
                    f"Found {found[name].paths[0].name} and {path.name} in {folder}; expected one file for the {name} "
                    f"split. Remove one, or name it with --{name}_file."
                )
            found[name] = Files([path])
        elif path.is_file() and file_format(path) not in (None, ".txt"):
            others.append(path.name)
    if found and any(map(_PART_OF_A_SPLIT.match, others)):
        return {}  # datasets puts them together
    if found and others:
        warn(f"Of {folder} {', '.join(others[:5])} are not read; only files named train, validation and test are.")
    return found
