import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertcls.process import one_line_errors, peak_memory, use_cores

LIBRARY, VERSION = platform.libc_ver()
NEW = LIBRARY == "glibc" and tuple(map(int, VERSION.split("."))) >= (2, 36)  # some older ones allow 32 MiB
PAGES = """
import resource, sys
import torch
from bertcls.process import use_cores

if sys.argv[1] == "ours":
    use_cores(1)


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


for turn in range(20):
    if turn == 10:
        before = faults()
    torch.ones(12_000_000)  # 48 MB, above every threshold of glibc's own
print(faults() - before, torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(not NEW, reason="another C library than a new glibc")
def test_freed_memory_is_taken_again():
    counted = {
        whose: subprocess.run([sys.executable, "-c", PAGES, whose], capture_output=True, text=True, check=True).stdout
        for whose in ("ours", "theirs")
    }
    ours, threads = map(int, counted["ours"].split())
    assert threads == 1
    assert ours < 1000 < int(counted["theirs"].split()[0])  # pages that the system had to clear


@pytest.mark.skipif(sys.platform != "linux", reason="no mallopt")
@pytest.mark.parametrize(
    ("allowed", "calls"),
    [
        (2**30, [(-3, 2**30), (-1, -1)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, -1)]),  # an older glibc
        (0, [(-3, 2**30), (-3, 2**25)]),  # the trim threshold alone would do harm
    ],
)
def test_the_allocator_is_set_as_far_as_it_allows(allowed, calls, monkeypatch):
    asked = []

    def mallopt(option: int, value: int) -> int:
        asked.append((option, value))
        return int(value <= allowed)

    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    use_cores(torch.get_num_threads())
    assert asked == calls


@pytest.mark.slow
def test_the_peak_is_that_of_this_process_alone():
    block = np.ones(100_000_000)  # 800 MB
    code = "from bertcls.process import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50e6 < int(done.stdout) < peak_memory() - block.nbytes / 2
    before, size = peak_memory(), block.nbytes
    del block
    assert peak_memory() > before - size / 2  # it stays


def test_the_peak_where_the_kernel_does_not_tell_it(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    assert peak_memory() > 50e6


def test_an_error_stays_a_line_that_can_be_read(capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise ValueError(f"Found {'a name, ' * 50_000}\nand more; expected one. Rename it.")
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1 and len(line) < 2000
    assert line.startswith("error: Found a name, ") and "expected one. Rename it." in line
