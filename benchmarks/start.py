"""Seconds from the start of a program to its first answer, beside what it cannot do without of transformers.

Each is started in a process of its own, in turn and in every other round backwards, once to warm up; medians are
printed, of the clock and of the processor, which other work on the machine moves less. Of one more start by
`-X importtime`: the packages that take most of the time of import beyond the reference.

Run:  python benchmarks/start.py
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from machine import interleaved, show
from predict_memory import save_model

ROOT = Path(__file__).parent.parent
PROGRAMS = {  # and what each is beside; {model} is a folder with a tiny model
    "from transformers import PreTrainedModel": (["-c", "from transformers import PreTrainedModel"], None),
    "import bertcls": (["-c", "import bertcls"], 0),
    "predict.py --text": (["recipes/predict.py", "--model_name_or_path", "{model}", "--text", "Never again."], 0),
    "from transformers import Trainer": (["-c", "from transformers import Trainer"], None),
    "csv_finetune.py --help": (["recipes/csv_finetune.py", "--help"], 3),
}


def start(words: list[str], *options: str) -> str:
    """Runs Python to its end; what it wrote to standard error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *options, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stderr


def timed(found: list[float], words: list[str]) -> None:
    """Adds the processor seconds of a start."""
    before = os.times()
    start(words)
    after = os.times()
    found.append(after.children_user + after.children_system - before.children_user - before.children_system)


def packages(words: list[str]) -> Counter:
    """Seconds of import of each package, those that it imports not counted in."""
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", start(words, "-X", "importtime"), re.MULTILINE)
    found: Counter = Counter()
    for microseconds, module in lines:
        found[module.split(".")[0]] += int(microseconds) / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"))
        words = {
            name: [word.format(model=Path(folder, "model")) for word in command]
            for name, (command, _) in PROGRAMS.items()
        }
        processor: dict[str, list[float]] = {name: [] for name in words}
        seconds = interleaved({name: partial(timed, processor[name], words[name]) for name in words}, args.rounds)
        spent = {name: packages(command) for name, command in words.items()}
    used = {name: float(np.median(found[1:])) for name, found in processor.items()}
    table, names = [], list(PROGRAMS)
    for name, (_, beside) in PROGRAMS.items():
        if beside is None:
            table.append([name, seconds[name], used[name], "", "", ""])
            continue
        reference = names[beside]
        more = (spent[name] - spent[reference]).most_common(5)
        shown = ", ".join(f"{package} {taken:.2f}" for package, taken in more if taken >= 0.02)
        times, above = (used[name] / used[reference], used[name] - used[reference])
        table.append([name, seconds[name], used[name], times, above, shown])
    headings = ["program", "s", "s of a processor", "x the reference", "s above it", "most of it, s of import"]
    show(f"Medians of {args.rounds} starts", headings, table, args.output)


if __name__ == "__main__":
    main()
