"""What several processes do together: waits without a limit, and an end for all where one is gone."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from bertcls import together
from bertcls.process import one_line_errors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, which here alone is safe")
fork = multiprocessing.get_context("fork")


def begin(work, rank: int, count: int, folder: Path) -> None:
    """A process of a launcher's, which writes what it says to `said-N`, and what `work` gives to `gave-N`."""
    said = os.open(folder / f"said-{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1), os.dup2(said, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # which accelerate asks for, and nobody uses
    PartialState._reset_state()
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    try:
        with one_line_errors(), together.staying_together():
            PartialState(cpu=True)
            together.start_pulse(timedelta(seconds=60))
            (folder / f"gave-{rank}").write_text(repr(work(rank, folder)))
    except SystemExit as end:
        os._exit(end.code)
    os._exit(0)


def run(work, folder: Path, count: int = 3) -> tuple[list, list[str], list[str]]:
    """Exit codes, what was given and what was said, of so many processes."""
    started = [fork.Process(target=begin, args=(work, rank, count, folder)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()  # which hangs
    read = lambda name, rank: path.read_text() if (path := folder / f"{name}-{rank}").exists() else ""  # noqa: E731
    gave, said = ([read(name, rank) for rank in range(count)] for name in ("gave", "said"))
    return [process.exitcode for process in started], gave, said


def test_all_wait_for_the_slowest_and_hear_the_first(tmp_path):
    def work(rank: int, folder: Path) -> tuple:
        time.sleep(0.3 * rank)
        (folder / f"came-{rank}").touch()
        together.meet()
        there = len(list(folder.glob("came-*")))
        heard = together.from_rank_0(lambda: time.sleep(0.5) or f"rank {rank}")
        shared = together.first_in(folder / "shared")
        apart = together.first_in(folder / f"disk-{rank // 2}")  # two processes of one machine, one of another
        together.meet()
        left = [*(folder / "shared").iterdir(), *(folder / f"disk-{rank // 2}").iterdir()]
        return there, heard, shared, apart, left

    codes, gave, said = run(work, tmp_path)
    assert codes == [0, 0, 0], said
    assert gave == [repr((3, "rank 0", 0, first, [])) for first in (0, 0, 2)]
    assert said == ["", "", ""]


def test_what_is_wrong_on_the_first_process_is_said_by_all_and_nothing_else(tmp_path):
    def work(rank: int, folder: Path) -> None:
        together.from_rank_0(lambda: int("x") if rank == 0 else None)

    codes, _, said = run(work, tmp_path)
    assert codes == [2, 2, 2]
    for rank, lines in enumerate(said):
        assert lines.count("\n") == 1 and "invalid literal for int() with base 10: 'x'" in lines
        assert lines.startswith("error: " if rank == 0 else f"error [process {rank}]: ")


def test_a_process_that_is_killed_ends_the_others_at_work_and_in_a_wait(tmp_path):
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0:
            time.sleep(100)  # at work
        together.meet()

    codes, gave, said = run(work, tmp_path)
    assert codes == [1, -signal.SIGKILL, 1] and gave == ["", "", ""]
    for rank in (0, 2):
        assert f"error [process {rank}]: Lost another process, or the link to it (" in said[rank]


def test_a_report_is_written_to_its_end_whoever_is_lost(tmp_path):
    def work(rank: int, folder: Path) -> str:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with together.finishing():
            pulse = together._pulses[0]
            with pulse.changed:
                pulse.changed.wait_for(lambda: pulse.lost)
            return "written"

    codes, gave, said = run(work, tmp_path, 2)
    assert codes == [0, -signal.SIGKILL] and gave == ["'written'", ""] and "Lost another process" in said[0]


def test_one_process_needs_none_of_it(tmp_path):
    with together.staying_together():
        together.start_pulse()
        together.meet()
        assert together.from_rank_0(lambda: 3) == 3 and together.first_in(tmp_path) == 0
        with together.first_of_cache(), together.finishing():
            pass
    assert together._pulses == [] and list(tmp_path.iterdir()) == []


def test_processes_that_never_come_are_not_waited_for_without_end():
    code = "from bertcls import together\ntogether.TIMEOUT /= 300\ntogether.open_group(together.TIMEOUT, None)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | launched, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "imed out" in done.stderr
