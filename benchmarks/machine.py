"""What the benchmarks share: the rate that the machine itself reaches, processes of their own, and how a table is
printed and written."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import transformers

from bertcls.process import peak_memory

DEVICE = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")  # of what is measured


def matmul_rate(dtype: torch.dtype = torch.float32, size: int = 2048, device: str = "cpu") -> float:
    """GFLOP/s of `size` x `size` matrix products, the median of five."""
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    matrix @ matrix
    seconds = []
    for _ in range(5):
        wait_for(device)
        start = time.perf_counter()
        matrix @ matrix
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(seconds)) / 1e9


def wait_for(device: str) -> None:
    """Returns when what was asked of the device is done."""
    if device != "cpu":
        torch.accelerator.synchronize()


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, called in turn and in every other round backwards; a first round warms up."""
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(found[1:])) for name, found in seconds.items()}


def peak_gib() -> float:
    """Of the memory of the accelerator where there is one, else of this process."""
    return (peak_memory() if DEVICE == "cpu" else torch.accelerator.max_memory_allocated()) / 2**30


def tell(**facts) -> None:
    """What a benchmark says from a process of its own: to `ask_in_turn`, with the peak memory in GiB."""
    print("found:", json.dumps(facts | {"peak": peak_gib()}))


def ask_in_turn(
    script: str,
    names: Iterable[str],
    rounds: int,
    *,
    option: str,
    words: Sequence[str] = (),
    launch: Callable[[str], list[str]] = lambda name: [],
) -> dict[str, list[dict]]:
    """What the script tells of each name in each round, in every other round backwards.

    Each answer comes from a process of its own, whose memory and settings are no other's: this command line again,
    with `words`, `option` and the name. `launch` gives what stands before the script, such as a launcher.
    """
    found: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(rounds):
        for name in list(found)[:: -1 if number % 2 else 1]:
            command = [sys.executable, *launch(name), script, *sys.argv[1:], *words, option, name]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            answer = next(line for line in lines if line.startswith("found:"))
            found[name].append(json.loads(answer.removeprefix("found:")))
            numbers = {key: value for key, value in found[name][-1].items() if not isinstance(value, list)}
            print(f"round {number + 1}, {name}: {numbers}", flush=True)
    return found


def show(title: str, headings: list[str], rows: list[list], output: str | None = None, **facts) -> None:
    """Prints a Markdown table, and writes it with the facts to a JSON file."""
    print(f"{title}\n\n| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row) + " |")
    if output:
        facts |= {
            "title": title,
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rows": [dict(zip(headings, row)) for row in rows],
        }
        with open(output, "w") as file:
            json.dump(facts, file, indent=2)


def _cell(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
