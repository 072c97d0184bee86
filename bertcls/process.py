"""What a command does as a process: it ends with one line where its input is wrong, and uses the cores it has."""

import contextlib
import os
import sys
from collections.abc import Iterator

import psutil
from huggingface_hub.errors import StrictDataclassError


def cores_per_process() -> int:
    """Cores for this process. The launchers set `OMP_NUM_THREADS=1` where it is not set, which idles the others."""
    chosen = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]  # OpenMP allows one number per nesting level
    if chosen.isdigit() and int(chosen) > 1:
        return int(chosen)
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a recipe with one line on standard error and exit code 2 where its input was wrong.

    Every helper raises `ValueError` or an `OSError` for bad input. With `BERTCLS_TRACEBACK=1` in the environment the
    traceback is shown instead.
    """
    try:
        yield
    except (ValueError, OSError, StrictDataclassError) as error:
        if os.environ.get("BERTCLS_TRACEBACK") == "1":
            raise
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" [process {rank}]"
        if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
            error = error.__cause__  # what the model's configuration says
        line = f"error{where}: {' '.join(str(error).split())} (BERTCLS_TRACEBACK=1 shows where)"
        print(line, file=sys.stderr, flush=True)
        sys.exit(2)
