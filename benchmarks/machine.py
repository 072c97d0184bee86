"""What the benchmarks share: the rate that the machine itself reaches, and how a table is printed and written."""

import json
import platform
import time

import numpy as np
import torch
import transformers


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
