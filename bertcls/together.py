"""Several processes of one run: waits without a limit, which end all the same where a process or a link is gone."""

import contextlib
import gc
import os
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

TIMEOUT = timedelta(minutes=10)  # of a collective; a machine that is silent for so long is lost
_BEAT, _WAITING = 5.0, 0.1  # seconds from one beat to the next, and where a process waits for another
_END = 2**40  # meetings
_OF_A_LINK = re.compile(r"/gloo/|NCCL")  # in the errors of collectives
Result = TypeVar("Result")


class _Pulse:
    """A thread of each process by which all know that the others are there, and which meeting each has come to.

    A beat is an all-reduce of two numbers by gloo, beside what the program computes. Where it fails, a process has
    died or a link is cut, and the thread ends its own process, too: the others of a collective may never come.
    """

    def __init__(self, timeout: timedelta):
        self.group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        self.pause = min(_BEAT, timeout.total_seconds() / 4)  # the others come to a beat as late as this
        self.came = self.told = self.all_came = 0  # meetings that this process came to, told of, and all came to
        self.leaving = self.finishing = self.ending = self.lost = False
        self.changed = threading.Condition()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        pause = 0.0
        while self.all_came < _END:
            with self.changed:
                self.changed.wait_for(lambda: self.came > self.told or self.leaving, pause)
                if self.leaving:
                    return
                self.told = self.came
            numbers = torch.tensor([self.told, -self.told])
            try:
                torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN, group=self.group)
            except Exception as error:  # whatever it is: without a beat nobody would end what waits
                return self._lose(error)
            pause = self.pause if numbers.sum() == 0 else _WAITING
            with self.changed:
                self.all_came = int(numbers[0])
                self.changed.notify_all()

    def _lose(self, error: Exception) -> None:
        with self.changed:
            if self.leaving or self.ending:  # as the others do: each says what is wrong, once
                return
            self.ending = True
        said = re.sub(r"^\[.*?\] ", "", str(error)).splitlines() or [type(error).__name__]
        why = said[0].split(". ")[0]
        rank = os.environ.get("RANK", "0")
        with contextlib.suppress(OSError, ValueError):  # who read it may be gone
            print(
                f"error [process {rank}]: Lost another process, or the link to it ({why}); expected all to be there. "
                "What is whole on the disk stays: see why it ended, and go on, a training with "
                "--resume_from_checkpoint.",
                file=sys.stderr,
                flush=True,
            )
        with self.changed:
            self.lost = True
            self.changed.notify_all()
            if not self.finishing:
                _end_now()

    def meet(self, number: int = 1) -> None:
        with self.changed:
            self.came += number
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.all_came >= self.came or self.lost)
            if self.lost and number == 1:
                _end_now()


_pulses: list[_Pulse] = []  # of this process, at most one


def _end_now() -> None:
    """Ends this process at once, whatever its other threads wait for; a restart counts on what is whole alone."""
    try:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    finally:
        os._exit(1)


def open_group(timeout: timedelta, backend: str | None) -> None:
    """Joins processes on CPUs, which must all come within `timeout`, or `TIMEOUT`; Trainer would wait half an hour."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=True, timeout=max(timeout, TIMEOUT), **({"backend": backend} if backend else {}))


def start_pulse(timeout: timedelta = TIMEOUT) -> None:
    """From here on a process of this program that dies, or is not heard for `timeout`, ends the others, too.

    Once for a program, in all its processes, within `staying_together`; does nothing where there is one process.
    """
    if _pulses and _pulses[0].lost:  # while the run before was written to its end
        _end_now()
    if processes() > 1 and not _pulses:
        _pulses.append(_Pulse(timeout))


@contextlib.contextmanager
def staying_together() -> Iterator[None]:
    """A program whose processes end together, the first ones when the last one is through, or by an error each."""
    try:
        yield
    except BaseException as error:
        for pulse in _pulses:
            if isinstance(error, RuntimeError) and _OF_A_LINK.search(str(error)):  # a collective, between two beats
                pulse._lose(error)
            with pulse.changed:
                pulse.leaving = True
                pulse.changed.notify_all()
        raise
    if _pulses:
        _pulses.pop().meet(_END)
        gc.collect()  # a model of DDP that outlives its group ends it without letting others run, and waits for them
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """What this process alone writes now is written to its end, even where another one is lost meanwhile."""
    for pulse in _pulses:
        pulse.finishing = True
    try:
        yield
    finally:
        for pulse in _pulses:
            pulse.finishing = False


def processes() -> int:
    """Processes of this program, on all machines."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def meet() -> None:
    """Waits until all processes are here, however long each takes: their pulses say that they are on their way."""
    if _pulses:
        _pulses[0].meet()
    elif processes() > 1:
        PartialState().wait_for_everyone()


def from_rank_0(make: Callable[[], Result]) -> Result:
    """What `make` gives on the first process, or raises there: on all of them, since they would wait for it."""
    if processes() == 1:
        return make()
    answer: list = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            answer[0] = make()
        except (OSError, ValueError) as error:
            answer[1] = error
    meet()
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def first_in(folder: str | Path) -> int:
    """The lowest number of a process that writes into the same folder as this one: 0 where all machines share it."""
    if processes() == 1:
        return 0
    folder, rank = Path(folder), torch.distributed.get_rank()
    word = from_rank_0(lambda: uuid.uuid4().hex)
    folder.mkdir(parents=True, exist_ok=True)
    marks = [folder / f".{word}-{number}" for number in range(rank + 1)]
    marks[rank].touch()
    meet()
    first = next(number for number, mark in enumerate(marks) if mark.exists())
    meet()
    marks[rank].unlink()
    return first


def check_shared(folder: str | Path, fix: str) -> None:
    """Refuses a folder that some machine does not see, on all processes; `fix` says what to do."""
    if processes() > 1 and max(gather_object([first_in(folder)])) > 0:
        raise ValueError(f"Found {folder} on one machine alone; expected a folder that all of them see. {fix}.")


@contextlib.contextmanager
def first_of_cache() -> Iterator[None]:
    """Maps of a data set: one process for each file system that holds the cache of datasets fills it, the others read
    what it wrote."""
    from datasets import config  # a service does without it

    first = processes() == 1 or first_in(config.HF_DATASETS_CACHE) == torch.distributed.get_rank()
    if not first:
        meet()
    yield
    if first:
        meet()


def restarts() -> int:
    """How often the launcher starts the processes again where one of them ends (its `--max_restarts`).

    Raises:
        ValueError: its attempts share a store of addresses, so that one may ask for a process of the one before.
    """
    found = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if found and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            f"Found --max_restarts {found}; expected --rdzv_backend c10d and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "with it, else another attempt may look for processes of the one before. Give the one, and set the other."
        )
    return found


def launchers() -> list[list]:
    """Host, process id and start (seconds) of each machine's launcher, which all the attempts of a launch share."""
    parent = psutil.Process(os.getppid())
    found = [[socket.gethostname(), parent.pid, parent.create_time()]]
    return gather_object(found) if processes() > 1 else found
