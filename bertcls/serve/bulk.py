"""Labels for any number of rows: parts that several processes write, and that a killed run need not write again."""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool
from filelock import FileLock
from tqdm.auto import tqdm

from bertcls.backends import OnnxModel
from bertcls.inference import Prediction, TextClassifier
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.process import LOCK, lock_folder, refuse_inside, use_cores, whole_file

FORMATS = (".parquet", ".jsonl")
_MANIFEST = "manifest.json"


def start_processes(cpu_threads: int | None = None, *, cpu: bool = False) -> PartialState:
    """This process among those of the launcher, on its accelerator, or on a CPU with its share of the cores.

    Args:
        cpu_threads: on a CPU; `None` takes the cores by the processes.
        cpu: leave an accelerator alone.
    """
    told = str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")) == 1
    on_cpu = cpu or told or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))  # the fastest process waits for the slowest
    if state.device.type == "cpu":
        use_cores(cpu_threads)
    return state


def survey(tables: Iterable[pa.Table]) -> dict:
    """Reads all rows once, so that what is wrong with one of them is said before any is labelled.

    Args:
        tables: with the columns `id`, `text` and, for pairs, `text_pair`, as `bertcls.stream_rows` opens them.

    Returns:
        the number of `rows`, and the `digest` of all ids and texts.

    Raises:
        ValueError: what the tables raise.
    """
    rows, digest = 0, hashlib.sha256()
    for table in tables:
        rows += len(table)
        for name in table.column_names:
            digest.update(repr(table[name].to_pylist()).encode())
    return {"rows": rows, "digest": digest.hexdigest()}


def count_rows(table: pa.Table) -> Counter:
    """The `rows` of a table, and how many of them have a `missing` text (of a pair, either) or an `empty` one.

    >>> count_rows(pa.table({"id": [0, 1, 2], "text": ["a", None, " "]}))
    Counter({'rows': 3, 'missing': 1, 'empty': 1})
    """
    texts = [table[name] for name in table.column_names if name != "id"]
    missing = empty = pa.array([False] * len(table))
    for column in texts:
        missing = pc.or_(missing, pc.is_null(column))
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), False))
    empty = pc.and_not(empty, missing)
    return Counter(rows=len(table), missing=pc.sum(missing).as_py() or 0, empty=pc.sum(empty).as_py() or 0)


def digest_of(classifier: TextClassifier) -> str:
    """Of all that decides a model's answers: weights, contract and tokenizer, wherever its folder lies."""
    model, digest = classifier.model, hashlib.sha256()
    if isinstance(model, OnnxModel):
        for path in sorted(model.path.parent.glob("*.onnx*")):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for name, value in sorted(model.state_dict().items()):
        parts = value if isinstance(value, tuple) else (value,)  # int8 packs weight and bias
        for tensor in (part for part in parts if isinstance(part, torch.Tensor)):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            tensor = tensor.int_repr() if tensor.is_quantized else tensor.detach().float()
            digest.update(tensor.cpu().contiguous().view(-1).numpy().data)
    config = {name: value for name, value in model.config.to_diff_dict().items() if name != "transformers_version"}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(classifier.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def label_table(classifier: TextClassifier, table: pa.Table, *, abstain_below: float | None = None) -> pa.Table:
    """The answers for a table of texts.

    Args:
        classifier: of texts, or of pairs where the table has `text_pair`.
        table: with the columns `id`, `text` and, for pairs, `text_pair`.
        abstain_below: as in `TextClassifier.predict`.

    Returns:
        a table with `id`, `label` (a name, a list of names, or a value) and, but for a regression, `score` and
        `probability_<name>` of every class. A row with a missing text has nulls. Names as in a run's
        `predictions.parquet`.

    Raises:
        ValueError: as `TextClassifier.predict`.
    """
    texts = list(zip(*(table[name].to_pylist() for name in table.column_names if name != "id")))
    given = [row for row, text in enumerate(texts) if None not in text]
    asked = [texts[row] if "text_pair" in table.column_names else texts[row][0] for row in given]
    answers: list[Prediction | None] = [None] * len(texts)
    for row, answer in zip(given, classifier.predict(asked, abstain_below=abstain_below)):
        answers[row] = answer
    kind = classifier.model.config.problem_type
    label_type = {REGRESSION: pa.float64(), MULTI_LABEL: pa.list_(pa.string())}.get(kind, pa.string())
    columns = {"id": table["id"], "label": pa.array([answer and answer.label for answer in answers], label_type)}
    if kind != REGRESSION:
        columns["score"] = pa.array([answer and answer.score for answer in answers], pa.float64())
        for name in classifier.label_names:
            values = [answer and answer.probabilities[name] for answer in answers]
            columns[f"probability_{name}"] = pa.array(values, pa.float64())
    return pa.table(columns)


def predict_parts(
    classifier: TextClassifier,
    tables: Iterable[pa.Table],
    folder: Path,
    *,
    suffix: str,
    state: PartialState,
    abstain_below: float | None = None,
    bar: tqdm,
) -> tuple[list[Path], Counter]:
    """Labels this process's share of the parts that are not there yet, a table a part.

    Every process reads all tables and labels each `num_processes`-th one. So a part holds the same rows, and the same
    bytes on the same kind of machine, whatever the number of processes and of restarts.

    Args:
        classifier: as in `label_table`.
        tables: as in `label_table`.
        folder: of the parts, opened by `open_parts`.
        suffix: one of `FORMATS`.
        state: which of how many processes this is.
        abstain_below: as in `TextClassifier.predict`.
        bar: counts the rows that have been gone through.

    Returns:
        the files of all parts in order, those of other processes may not be there yet; and `count_rows` of all rows.

    Raises:
        OSError: a part cannot be written.
        ValueError: what the tables raise.
    """
    parts, counts = [], Counter()
    there = {path.name for path in folder.iterdir()}
    for number, table in enumerate(tables):
        counts += count_rows(table)
        parts.append(folder / f"part-{number:06d}{suffix}")
        if parts[-1].name in there:
            if not bar.disable:
                bar.initial += len(table)  # no part of this run's speed
        elif number % state.num_processes == state.process_index:
            with whole_file(parts[-1]) as path, _writer(path, suffix) as write:
                write(label_table(classifier, table, abstain_below=abstain_below))
        bar.update(len(table))
    return parts, counts


def check_output(output_file: Path, *, source: str | None = None, overwrite: bool = False) -> None:
    """Refuses an output of another kind than `FORMATS`, and one that is there, but for what a killed run left.

    Args:
        output_file: as in `open_parts`.
        source: of the rows; never overwritten.
        overwrite: another file may be.

    Raises:
        FileExistsError: the file is there.
        ValueError: another suffix, or the source.
    """
    if output_file.suffix not in FORMATS:
        raise ValueError(
            f"Found --output_file {output_file}; expected a name that ends with {' or '.join(FORMATS)}. Rename it."
        )
    if source is not None:
        refuse_inside(output_file, [source], "--output_file")
    if output_file.exists() and not overwrite and not (parts_folder(output_file) / _MANIFEST).is_file():
        raise FileExistsError(
            f"Found {output_file}; expected no such file. Name another --output_file, or give --overwrite_output."
        )


def check_pairs(classifier: TextClassifier, *, given: bool, flag: str) -> None:
    """Refuses single texts for a model of pairs, and pairs for a model of texts.

    Args:
        classifier: whose contract says what it reads.
        given: whether `flag` names second texts.
        flag: for the message.

    Raises:
        ValueError: what was found and expected.
    """
    if given != (classifier.model.config.pair_truncation is not None):
        found, wanted = ("pairs", "single texts")[:: 1 if given else -1]
        raise ValueError(
            f"Found {found} for a model of {wanted}; expected {wanted}. {'Leave out' if given else 'Give'} {flag}."
        )


def open_parts(output_file: Path, manifest: dict, *, overwrite: bool = False) -> FileLock:
    """Makes the folder of the parts, or goes on with one that a run with the same manifest left.

    Args:
        output_file: the folder stands beside it, named `<output_file>.parts`.
        manifest: what decides the content of the parts: model, data and options.
        overwrite: remove the parts and the output that are there.

    Returns:
        the lock on the folder; the process keeps it as long as it writes there.

    Raises:
        FileExistsError: an output, the parts of another run, or a folder that no run made.
        ValueError: another run is writing there.
    """
    folder = parts_folder(output_file)
    path = folder / _MANIFEST
    if folder.is_dir() and not path.is_file() and any(file.name != LOCK for file in folder.iterdir()):
        raise FileExistsError(
            f"Found the folder {folder} without {_MANIFEST}; expected none, or one that a run of predict.py left. "
            "Remove it, or name another --output_file."
        )
    if overwrite:
        if folder.is_dir():
            lock_folder(folder, "--output_file").release()
        output_file.unlink(missing_ok=True)
    if overwrite or not folder.is_dir():
        _remove_folder(folder)
    check_output(output_file)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, "--output_file")
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else manifest
    if other := [name for name in {**there, **manifest} if there.get(name) != manifest.get(name)]:
        lock.release()
        raise FileExistsError(
            f"Found parts of a run with another {' and '.join(other)} in {folder}; expected those of this run. "
            "Name another --output_file, or give --overwrite_output to start anew."
        )
    for unfinished in folder.glob("*.tmp"):
        unfinished.unlink(missing_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return lock


def merge_parts(parts: list[Path], output_file: Path) -> None:
    """Joins parts to one file, one part in memory at a time, and removes their folder.

    Raises:
        FileNotFoundError: a part that is not there.
    """
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(parts)} parts are not in {parts_folder(output_file)}, the first is {missing[0]}; "
            "expected all of them. Start the command again; on several machines the folder must be one that all see."
        )
    with whole_file(output_file) as path:
        if output_file.suffix == ".parquet":
            with _writer(path, output_file.suffix) as write:
                for part in parts:
                    write(pq.read_table(part))
        else:
            with open(path, "wb") as file:
                for part in parts:
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, file)
    _remove_folder(parts_folder(output_file))


def parts_folder(output_file: Path) -> Path:
    """Where the finished parts lie until they are joined."""
    return output_file.with_name(f"{output_file.name}.parts")


def describe_prediction(prediction: Prediction) -> str:
    """One line: the label and how sure the model is.

    >>> describe_prediction(Prediction("positive", 0.981, {"negative": 0.019, "positive": 0.981}))
    'positive\\t0.9810'
    >>> describe_prediction(Prediction(("a", "b"), 0.7, {})), describe_prediction(Prediction((), 0.9, {}))
    ('a, b\\t0.7000', 'none\\t0.9000')
    >>> describe_prediction(Prediction(3.25, None, {"value": 3.25})), describe_prediction(Prediction(None, 0.5, {}))
    ('3.2500', 'abstains\\t0.5000')
    """
    if isinstance(prediction.label, float):
        return f"{prediction.label:.4f}"
    label = ", ".join(prediction.label) or "none" if isinstance(prediction.label, tuple) else prediction.label
    return f"{label or 'abstains'}\t{prediction.score:.4f}"


@contextlib.contextmanager
def _writer(path: Path, suffix: str) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table to a file, whose kind is one of `FORMATS`."""
    if suffix == ".jsonl":
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            yield lambda table: file.writelines(
                json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.to_pylist()
            )
        return
    writers: list[pq.ParquetWriter] = []

    def write(table: pa.Table) -> None:
        if not writers:
            writers.append(pq.ParquetWriter(path, table.schema))
        writers[0].write_table(table)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def _remove_folder(folder: Path) -> None:
    """Removes a folder of parts under another name, so that what a killed run leaves of it is not gone on with."""
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.exists():
        os.replace(folder, removed)
        shutil.rmtree(removed)
