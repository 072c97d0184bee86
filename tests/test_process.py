import ctypes
import subprocess
import sys

import numpy as np
import pytest

from bertcls import peak_memory

MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
PAGES = """
import resource, sys
import torch
from bertcls import use_cores

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


@pytest.mark.skipif(MALLOPT is None or not MALLOPT(-3, 2**30), reason="another C library than a newer glibc")
def test_freed_memory_is_taken_again():
    counted = {
        whose: subprocess.run([sys.executable, "-c", PAGES, whose], capture_output=True, text=True, check=True).stdout
        for whose in ("ours", "theirs")
    }
    ours, threads = map(int, counted["ours"].split())
    assert threads == 1
    assert ours < 1000 < int(counted["theirs"].split()[0])  # pages that the system had to clear


def test_the_peak_is_that_of_this_process_alone():
    block = np.ones(100_000_000)  # 800 MB
    code = "from bertcls import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50e6 < int(done.stdout) < peak_memory() - block.nbytes / 2
    before, size = peak_memory(), block.nbytes
    del block
    assert peak_memory() > before - size / 2  # it stays


def test_the_peak_where_the_kernel_does_not_tell_it(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    assert peak_memory() > 50e6
