"""Labels for any number of rows: parts that several processes write, and that a killed run need not write again."""

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from filelock import FileLock
from tqdm.auto import tqdm

from bertcls.backends import OnnxModel
from bertcls.data.encoding import LONGEST
from bertcls.data.streams import KEPT
from bertcls.data.tables import join_tables
from bertcls.inference import Prediction, TextClassifier
from bertcls.modeling import MULTI_LABEL, REGRESSION
from bertcls.process import (
    LOCK,
    code_digest,
    file_digest,
    lock_folder,
    refuse_inside,
    sync_folder,
    use_cores,
    whole_file,
)
from bertcls.report.formats import as_cell
from bertcls.together import TIMEOUT, check_shared, restarts, start_pulse

FORMATS = (".parquet", ".jsonl", ".csv")
_MANIFEST = "manifest.json"
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # they end or turn a line
_SHOWN_WORDS = 8  # of a text in the terminal
_SHOWN = 10  # of the parts that are missing
_LOCK_SECONDS = 300  # in which another shard has written or compared the manifest


def start_processes(cpu_threads: int | None = None, *, cpu: bool = False, writes: str | None = None) -> PartialState:
    """This process among those of the launcher, on its accelerator, or on a CPU with its share of the cores; all must
    see the folder of the file that it `writes`."""
    on_cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    start_pulse()
    if writes is not None:
        check_shared(Path(writes).expanduser().parent, "Name another --output_file")
    if state.device.type == "cpu":
        use_cores(cpu_threads)
    return state


class Survey:
    """What was read of tables of `stream_rows`: `counts`, `digest`, and that of the table that came last, `part`.

    `counts` has the `rows`, those with a `missing` text (of a pair, either) and those with an `empty` one.

    >>> survey = Survey()
    >>> _ = list(survey.read([pa.table({"id": [0, 1, 2], "text": ["a", None, " "]})]))
    >>> survey.counts
    Counter({'rows': 3, 'missing': 1, 'empty': 1})
    """

    def __init__(self):
        self.counts: Counter = Counter()
        self.digest = self.part = ""

    def read(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables as they come; all could be joined."""
        schema = pa.schema([])
        for table in tables:
            schema = join_tables([schema.empty_table(), table.slice(0, 0)], "the data").schema
            self.part = xxhash.xxh3_128_hexdigest(repr(table.to_pydict()).encode())
            self.digest = xxhash.xxh3_128_hexdigest(f"{self.digest} {self.part}".encode())
            whole = [texts for texts in _texts_of(table) if None not in texts]
            empty = sum(not all(map(str.strip, texts)) for texts in whole)
            self.counts.update(rows=len(table), missing=len(table) - len(whole), empty=empty)
            yield table


def _texts_of(table: pa.Table) -> list[tuple[str | None, ...]]:
    """The text of each row, or both of a pair."""
    return list(zip(*(table[name].to_pylist() for name in ("text", "text_pair") if name in table.column_names)))


def describe_program(classifier: TextClassifier, steps: str | None = None) -> dict:
    """What gives the answers: digests of the model, our code and a file of cleaning `steps`; what versions compute."""
    packages = ["torch", "transformers", "tokenizers"] + ["onnxruntime"] * isinstance(classifier.model, OnnxModel)
    return {
        "model": digest_of(classifier),
        "versions": {name: version(name) for name in packages},
        "code": code_digest(),
        "steps": None if steps is None else file_digest(Path(steps)),
    }


def digest_of(classifier: TextClassifier) -> str:
    """Of all that decides a model's answers: weights, contract and tokenizer, wherever its folder lies."""
    model, digest = classifier.model, hashlib.sha256()
    for path in sorted(model.path.parent.glob("*.onnx*")) if isinstance(model, OnnxModel) else ():
        digest.update(file_digest(path).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy().data)
    config = {name: value for name, value in model.config.to_diff_dict().items() if name != "transformers_version"}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(classifier.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def label_table(
    classifier: TextClassifier, table: pa.Table, *, abstain_below: float | None = None, words: bool = False
) -> pa.Table:
    """The answers for a table of `stream_rows`, in columns named as in a run's `predictions.parquet`: `id`, those that
    were kept (`input_<name>` where the name is taken), `label` (a name, a list of names, or a value) and, but for a
    regression, `score` and `probability_<name>` of every class, and where asked for `words`, the fields of each `Word`
    as JSON. A row with a missing text has nulls."""
    texts = _texts_of(table)
    asked = [text if len(text) == 2 else text[0] for text in texts if None not in text]
    found = iter(classifier.predict(asked, abstain_below=abstain_below, words=words))
    answers = [None if None in text else next(found) for text in texts]
    kind = classifier.model.config.problem_type
    label_type = {REGRESSION: pa.float64(), MULTI_LABEL: pa.list_(pa.string())}.get(kind, pa.string())
    columns = {"label": pa.array([answer and answer.label for answer in answers], label_type)}
    if kind != REGRESSION:
        columns["score"] = pa.array([answer and answer.score for answer in answers], pa.float64())
        for name in classifier.label_names:
            values = [answer and answer.probabilities[name] for answer in answers]
            columns[f"probability_{name}"] = pa.array(values, pa.float64())
    if words:
        values = [answer and json.dumps([*map(vars, answer.words)], ensure_ascii=False) for answer in answers]
        columns["words"] = pa.array(values, pa.string())
    kept = {"id": table["id"]}
    for name in table.column_names:
        if name.startswith(KEPT):
            new = name.removeprefix(KEPT)
            while new in kept or new in columns:
                new = f"input_{new}"
            kept[new] = table[name]
    return pa.table(kept | columns)


def predict_parts(
    classifier: TextClassifier,
    tables: Iterable[pa.Table],
    output_file: Path,
    *,
    state: PartialState,
    shard: str | None = None,
    digest: str | None = None,
    abstain_below: float | None = None,
    words: bool = False,
    bar: tqdm,
) -> tuple[list[Path], Counter]:
    """Labels this process's share of the parts that are not there yet, a table a part.

    Every process reads all tables and labels each `num_processes`-th one of its shard. So a part holds the same rows,
    and the same bytes on the same kind of machine, whatever the number of processes, shards and restarts. Gives the
    files of all parts in order (those of other processes may not be there yet), and the counts of `Survey`. A part
    whose rows or bytes are not those that the file beside it tells of is labelled anew.

    Raises:
        ValueError: other rows than those of `digest`.
    """
    parts, survey, folder, (index, count) = [], Survey(), parts_folder(output_file), number_of_shard(shard)
    turn, turns = index + count * state.process_index, count * state.num_processes
    there, made_of = {path.name for path in folder.iterdir()}, file_digest(folder / _MANIFEST)
    for number, table in enumerate(survey.read(tables)):
        parts.append(part := _part(folder, number))
        record, mine = part.with_suffix(".json"), number % turns == turn
        is_there = {part.name, record.name} <= there
        if is_there and mine and record.read_bytes() != _record_of(part, survey.part, made_of):
            bar.write(f"{part.name} is damaged, or of another run, and is labelled anew.")
            is_there = False
        if mine and not is_there:
            with whole_file(part) as path:
                pq.write_table(label_table(classifier, table, abstain_below=abstain_below, words=words), path)
            with whole_file(record) as path:
                path.write_bytes(_record_of(part, survey.part, made_of))
        elif is_there and not bar.disable:
            bar.initial += len(table)  # no part of this run's speed
        bar.update(len(table))
    if digest not in (None, survey.digest):
        raise ValueError(
            f"Found other rows ({survey.counts['rows']} of them) than when the data was read first; expected that it "
            f"stays as it is until all is labelled. {_anew(output_file, shard)}."
        )
    return parts, survey.counts


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _record_of(part: Path, rows: str, made_of: str) -> bytes:
    """What tells of a part that is whole: digests of the rows that it labels, its file and the manifest of its run."""
    told = {"rows": rows, "file": file_digest(part) if part.is_file() else None, "manifest": made_of}
    return json.dumps(told).encode()


def number_of_shard(shard: str | None) -> tuple[int, int]:
    """Which shard it is, counted from 0, and of how many; without one the only one.

    >>> number_of_shard("3/16"), number_of_shard(None)
    ((2, 16), (0, 1))
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", "1/1" if shard is None else shard)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"Found --shard {shard}; expected one from 1/16 to 16/16, or of another number. Correct it.")
    return number - 1, count


def check_output(output_file: Path, *, source: str, overwrite: bool = False, shard: str | None = None) -> None:
    """Refuses an output of another kind than `FORMATS`, one in its source, and one that is there, but for what a
    killed run left; and to overwrite what other shards, or earlier attempts of the launcher, have labelled."""
    number_of_shard(shard)
    other = _other_writers(shard)
    if overwrite and other:
        raise ValueError(
            f"Found --overwrite_output with {other}; expected one of them, since it would remove what was labelled "
            "before. Leave it out, and remove the old output, or name another."
        )
    if output_file.suffix not in FORMATS:
        raise ValueError(
            f"Found --output_file {output_file}; expected a name that ends with {', '.join(FORMATS)}. Rename it."
        )
    refuse_inside(output_file, [source], "--output_file")
    if Path(source).expanduser().resolve().is_relative_to(parts_folder(output_file).resolve()):
        raise ValueError(f"Found {source} among the parts of --output_file {output_file}; expected other data.")
    if not overwrite:
        _refuse_written(output_file, shard)


def _other_writers(shard: str | None) -> str | None:
    again = restarts()  # which refuses what cannot restart
    return f"--shard {shard}" if shard else f"--max_restarts {again}" if again else None


def _refuse_written(output_file: Path, shard: str | None) -> None:
    if output_file.exists() and not (parts_folder(output_file) / _MANIFEST).is_file():
        raise FileExistsError(
            f"Found {output_file}; expected no such file. Name another --output_file, or "
            f"{'remove it' if _other_writers(shard) else 'give --overwrite_output'}."
        )


def check_pairs(classifier: TextClassifier, *, given: bool, flag: str) -> None:
    """Refuses single texts for a model of pairs, and pairs for a model of texts; `flag` names second texts."""
    if given != (classifier.model.config.pair_truncation is not None):
        found, wanted = ("pairs", "single texts")[:: 1 if given else -1]
        raise ValueError(
            f"Found {found} for a model of {wanted}; expected {wanted}. {'Leave out' if given else 'Give'} {flag}."
        )


def open_parts(output_file: Path, manifest: dict, *, overwrite: bool = False, shard: str | None = None) -> FileLock:
    """Makes and locks the folder of the parts, or goes on with one that a run with the same manifest left.

    `manifest` is what decides the content of the parts: model, data and options; `overwrite` removes what is there.
    Shards hold a lock each, and a run of all the lock of the folder, which it gets where no shard is at work.
    """
    folder, anew = parts_folder(output_file), _anew(output_file, shard)
    path = folder / _MANIFEST
    ours = (LOCK, _MANIFEST)  # another shard may be writing it
    if folder.is_dir() and not path.is_file() and any(not file.name.startswith(ours) for file in folder.iterdir()):
        raise FileExistsError(
            f"Found the folder {folder} without {_MANIFEST}; expected none, or one that a run of predict.py left. "
            "Remove it, or name another --output_file."
        )
    if overwrite and folder.is_dir():
        lock = _lock_parts(folder)
        _remove_folder(folder)
        lock.release()
    if overwrite:
        output_file.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = lock_folder(folder, "--output_file", seconds=_LOCK_SECONDS) if shard else _lock_parts(folder)
        _refuse_written(output_file, shard)  # once more: others may just have joined theirs
    except (FileExistsError, FileNotFoundError):  # any other error leaves what was labelled
        if lock is not None:
            _remove_folder(folder)
            lock.release()
        _refuse_written(output_file, shard)  # where the folder went while this waited
        raise
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else manifest
    except (ValueError, TypeError, RecursionError) as error:
        lock.release()
        raise ValueError(
            f"Found {path} unreadable ({str(error)[:80]}); expected what a run of predict.py left. {anew}, or "
            "name another --output_file."
        ) from error
    if other := [name for name in {**there, **manifest} if there.get(name) != manifest.get(name)]:
        lock.release()
        raise FileExistsError(
            f"Found parts of a run with another {' and '.join(other)} in {folder}; expected those of this run. "
            f"Name another --output_file. {anew}."
        )
    if not path.is_file():
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if shard:
        index, count = number_of_shard(shard)
        try:
            return lock_folder(folder, "--output_file", name=f"{LOCK}-{index + 1}-of-{count}")
        finally:
            lock.release()
    parts = [_part(folder, number) for number in range(-(-manifest["rows"] // manifest["rows_per_part"]))]
    begun = any(folder.glob("part-*.json")) and not manifest["streaming"]  # of a stream one part's rows are known
    if begun and (missing := describe_missing(parts)):
        print(f"Goes on with {folder}: {missing}.")
    return lock


def _anew(output_file: Path, shard: str | None) -> str:
    """How to start again with nothing labelled, which a shard or a restarted attempt cannot do for all."""
    if shard is None and not restarts():
        return "Give --overwrite_output to start anew"
    return f"To start anew, end whatever writes to it and remove {parts_folder(output_file)}"


def _lock_parts(folder: Path) -> FileLock:
    """The lock of all parts, which no shard that is at work holds in part."""
    lock = lock_folder(folder, "--output_file")
    try:
        for path in folder.glob(f"{LOCK}-*"):
            lock_folder(folder, "--output_file", name=path.name).release()
    except ValueError:
        lock.release()
        raise
    return lock


def describe_missing(parts: list[Path], shard: str | None = None) -> str | None:
    """Which of the parts are not there, or not whole, and of which shards they are; `None` where all are there."""
    there = {path.name for path in parts[0].parent.iterdir()} if parts else set()
    missing = [n for n, part in enumerate(parts) if not {part.name, part.with_suffix(".json").name} <= there]
    if not missing:
        return None
    names, count = [parts[number].stem for number in missing], number_of_shard(shard)[1]
    shards = [f"{number + 1}/{count}" for number in sorted({number % count for number in missing})]
    shown, theirs = (", ".join(words[:_SHOWN]) + ", ..." * (len(words) > _SHOWN) for words in (names, shards))
    return f"{len(missing)} of {len(parts)} parts are missing: {shown}{f' (of --shard {theirs})' if shard else ''}"


def merge_parts(parts: list[Path], output_file: Path) -> None:
    """Joins parts to one file, one part in memory at a time, and removes their folder."""
    if missing := describe_missing(parts):
        raise FileNotFoundError(
            f"In {parts_folder(output_file)} {missing}; expected all of them. Start the command again; on several "
            "machines the folder must be one that all see."
        )
    joined = parts_folder(output_file) / f"joined{output_file.suffix}"
    for unfinished in joined.parent.glob("joined*.tmp"):
        unfinished.unlink()
    schema = join_tables([pq.read_schema(part).empty_table() for part in parts], "the parts").schema
    with whole_file(joined) as path, contextlib.ExitStack() as stack:
        if output_file.suffix == ".parquet":
            write = stack.enter_context(pq.ParquetWriter(path, schema)).write_table
        else:
            file = stack.enter_context(open(path, "w", encoding="utf-8", newline=""))
            write = partial(_write_lines if output_file.suffix == ".jsonl" else _write_cells, file)
        for part in parts:
            write(join_tables([schema.empty_table(), pq.read_table(part)], "the parts"))
    os.replace(joined, output_file)
    sync_folder(output_file.parent)
    _remove_folder(joined.parent)


def parts_folder(output_file: Path) -> Path:
    """Where the finished parts lie until they are joined."""
    return output_file.with_name(f"{output_file.name}.parts")


def describe_prediction(prediction: Prediction) -> str:
    """One line: the label, how sure the model is, and where they were asked for the words that weigh most.

    >>> describe_prediction(Prediction("positive", 0.981, {"negative": 0.019, "positive": 0.981}))
    'positive\\t0.9810'
    >>> describe_prediction(Prediction(("a", "b"), 0.7, {})), describe_prediction(Prediction((), 0.9, {}))
    ('a, b\\t0.7000', 'none\\t0.9000')
    >>> describe_prediction(Prediction(3.25, None, {"value": 3.25})), describe_prediction(Prediction(None, 0.5, {}))
    ('3.2500', 'abstains\\t0.5000')
    """
    if isinstance(prediction.label, float):
        line = f"{prediction.label:.4f}"
    else:
        label = ", ".join(prediction.label) or "none" if isinstance(prediction.label, tuple) else prediction.label
        line = f"{label or 'abstains'}\t{prediction.score:.4f}"
    for name in prediction.words[0].contributions if prediction.words else ():
        ranked = sorted(prediction.words, key=lambda word: -abs(word.contributions[name]))[:_SHOWN_WORDS]
        line += f"\t{name}: " + ", ".join(f"{word.text} {word.contributions[name]:+.2f}" for word in ranked)
    return _CONTROLS.sub(" ", line)


def lines_of_standard_input(*, pairs: bool) -> Iterator[str | tuple[str, str]]:
    """As UTF-8, whatever the locale; pairs have a tab between."""
    for number, line in enumerate(iter(lambda: sys.stdin.buffer.readline(LONGEST + 1), b""), start=1):
        if len(line) > LONGEST:
            raise ValueError(f"Line {number} of standard input has over {LONGEST:,} bytes; expected a text. Cut it.")
        try:
            parts = line.decode().rstrip("\r\n").split("\t", 1) if pairs else [line.decode().rstrip("\r\n")]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Line {number} of standard input is not UTF-8 ({error.reason}); expected UTF-8. Convert it, as with "
                "iconv -f latin1 -t utf-8."
            ) from error
        if pairs and len(parts) < 2:
            raise ValueError(f"Line {number} of standard input has no tab; expected two texts with one between them.")
        yield tuple(parts) if pairs else parts[0]


def _write_lines(file: TextIO, table: pa.Table) -> None:
    for row in table.to_pylist():
        line = json.dumps(row, ensure_ascii=False, default=str)
        if "NaN" in line or "Infinity" in line:  # which JSON has not
            line = json.dumps(json.loads(line, parse_constant=lambda name: None), ensure_ascii=False)
        file.write(line + "\n")


def _write_cells(file: TextIO, table: pa.Table) -> None:
    """Rows of a csv, a header before the first one; no label becomes a formula in a spreadsheet."""
    writer = csv.writer(file)
    if not file.tell():
        writer.writerow(table.column_names)
    for row in table.to_pylist():
        if isinstance(label := row["label"], list):
            parted = any(";" in name for name in label)
            label = json.dumps(label, ensure_ascii=False) if parted else ";".join(label)
        row["label"] = as_cell(label)
        cells = row.values()
        writer.writerow(json.dumps(cell, default=str) if isinstance(cell, list | dict) else cell for cell in cells)


def _remove_folder(folder: Path) -> None:
    """Removes a folder of parts under another name, so that what a killed run leaves of it is not gone on with."""
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.exists():
        os.replace(folder, removed)
        shutil.rmtree(removed, ignore_errors=True)  # on NFS the lock, which is held
