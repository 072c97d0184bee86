"""What a command does as a process: errors of one line, the cores that it has, locks and whole files."""

import argparse
import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import torch
import xxhash
from filelock import FileLock, Timeout
from huggingface_hub.errors import StrictDataclassError
from tqdm import tqdm
from transformers.utils import logging

_LONGEST_LINE = 1500  # characters of an error: its data, a name or a type, may have any number
_REMEMBERED = 8  # answers of a function: those of the splits of a run, and of folds
LOCK = ".lock"  # file in a folder that a process writes to; it stays
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_FULL_DISK = (  # what safetensors (122 is the user's quota) and torch say, which raise errors of their own
    *("No space left on device", "os error 28", "os error 122"),
    *("iostream error", "inline_container", "PytorchStreamWriter failed"),
)
logger = logging.get_logger(__name__)


class OptionParser(argparse.ArgumentParser):
    """Of a program of ours: the description stays as it is, and what is wrong with options raises `ValueError`."""

    def __init__(self, description: str, **options):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, formatter_class=form, **options)

    def error(self, message: str):
        raise ValueError(f"{message} (--help lists all options)")


def cores_per_process() -> int:
    """Cores for this process. The launchers set `OMP_NUM_THREADS=1` where it is not set, which idles the others."""
    chosen = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]  # OpenMP allows one number per nesting level
    if chosen.isdigit() and int(chosen) > 1:
        return int(chosen)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else math.inf
    cores = min(psutil.cpu_count(logical=False) or os.cpu_count(), allowed)
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def use_cores(threads: int | None = None) -> None:
    """Sets up this process to compute on the CPU: torch's threads, and the allocator as `keep_freed` does."""
    if threads is not None and threads < 1:
        raise ValueError(f"Found --cpu_threads {threads}; expected at least 1. Raise it.")
    torch.set_num_threads(threads or cores_per_process())
    keep_freed(2**30)


def keep_freed(size: int) -> None:
    """Tensors of up to `size` bytes (32 MiB with an older glibc) take freed memory again, on Linux.

    Else glibc gives a large tensor back to the system, which clears the next one: a tenth of a step of short texts.
    What is kept lies in pieces: where activations are computed twice, half of the memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # The trim threshold alone would keep the other one at its small default.
    if mallopt is not None and (mallopt(_M_MMAP_THRESHOLD, size) or mallopt(_M_MMAP_THRESHOLD, 2**25)):
        mallopt(_M_TRIM_THRESHOLD, -1)  # never give memory back


def peak_memory() -> int:
    """Bytes that this process had in memory at its peak."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")  # on Linux getrusage starts at the peak of the process that started this one
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return 1024 * int(found[1])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def one_line_errors(explain: Callable[[BaseException], str | None] | None = None) -> Iterator[None]:
    """Ends a program with one line on standard error: exit code 2 where its input was wrong, 130 after Ctrl+C.

    Every helper raises `ValueError` or an `OSError` for bad input; `explain` says what another error means for the
    user, and gives `None` for a defect. `BERTCLS_TRACEBACK=1` in the environment shows the traceback instead.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        explained, rank = None if explain is None else explain(error), os.environ.get("RANK", "0")
        if explained is None and is_full_disk(error):
            explained = f"A disk is full ({error}); expected room on it. Free some, and start the command again."
        wrong_input = explained or isinstance(error, ValueError | OSError | StrictDataclassError)
        stopped = isinstance(error, KeyboardInterrupt)
        if os.environ.get("BERTCLS_TRACEBACK") == "1" or not (stopped or wrong_input):
            raise
        if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
            error = error.__cause__  # what the model's configuration says
        line = " ".join((explained or str(error)).split())
        if len(line) > _LONGEST_LINE:
            line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # the line stands below what they show
        if not stopped:
            where = "" if rank == "0" else f" [process {rank}]"
            print(f"error{where}: {line} (BERTCLS_TRACEBACK=1 shows where)", file=sys.stderr, flush=True)
        elif rank == "0":
            print(f"Stopped by Ctrl+C. {line}".rstrip(), file=sys.stderr, flush=True)
        sys.exit(130 if stopped else 2)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that a disk has no room."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    named = not isinstance(error, ValueError) and any(words in str(error) for words in _FULL_DISK)
    return full or named or (error is not None and is_full_disk(error.__cause__))


def say(*words) -> None:
    """Prints on the first process of a run."""
    if os.environ.get("RANK", "0") == "0":
        print(*words, flush=True)


def warn(message: str) -> None:
    """Logs a warning on the first process of a run."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(message)


def remembered(function: Callable) -> Callable:
    """Keeps the last answers of a slow function of a data set, for the runs of `--seeds` and of a search.

    Data sets are the same where their fingerprints are; what is given must not be changed.
    """
    known: dict[tuple, object] = {}

    @functools.wraps(function)
    def look_up(data, **options):
        parts = data if isinstance(data, dict) else {"": data}
        key = (*((name, part._fingerprint) for name, part in parts.items()), repr(options))
        if key not in known:
            known[key] = function(data, **options)
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]
        return known[key]

    return look_up


def refuse_inside(output: str | Path, sources: Iterable[str | None], flag: str) -> None:
    """Refuses an `output`, named by `flag`, that is or lies in one of the `sources` here, which it would harm."""
    output = Path(output).expanduser().resolve()
    for source in filter(None, sources):
        place = Path(source).expanduser().resolve()
        if place.exists() and output.is_relative_to(place):
            raise ValueError(
                f"Found {flag} {output} in {source}, which is read; expected a place outside. Name another {flag}."
            )


def lock_folder(folder: Path, flag: str, *, name: str = LOCK, seconds: float = 0) -> FileLock:
    """The lock of a folder, named by `flag`, until it is released, nobody refers to it, or the process ends.

    `name` is that of its file where a folder has several; another process may hold it for `seconds`.
    """
    lock = FileLock(folder / name, is_singleton=True)  # one for all runs of this process
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise ValueError(
            f"Found another run that is writing to {folder}; expected none. Wait for it, end it, or name another "
            f"{flag}."
        ) from error
    return lock


def remove_files(folder: str | Path, names: Iterable[str]) -> None:
    """Takes files away by name, and the folder where nothing else is in it."""
    for name in names:
        Path(folder, name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is more in it, or no such folder
        Path(folder).rmdir()


def open_weights(folder: str | Path) -> None:
    """Gives saved weights the mode of the `config.json` beside them; safetensors 0.8 writes them with 0600."""
    for path in Path(folder).glob("*.safetensors"):
        shutil.copymode(Path(folder, "config.json"), path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name of a file to write, which becomes `path` when it is whole and on the disk."""
    unfinished = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def code_digest() -> str:
    """Of all modules of ours: what an earlier version of them has computed is computed anew."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    return hashlib.sha256(b"".join(code)).hexdigest()


def read_json(path: Path) -> dict:
    """The object that a file of a run holds.

    Raises:
        ValueError: none can be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected what the run wrote. Copy it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected what the run wrote. Copy it again.")
    return found


def file_digest(path: Path) -> str:
    """xxh3 of a file's content, which tells whether it was changed by accident."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def sync_folder(folder: Path) -> None:
    """Puts on the disk which files a folder holds."""
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
