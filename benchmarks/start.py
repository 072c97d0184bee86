"""Seconds from the start of a program to its first answer, beside what it cannot do without of transformers.

Each is started in a process of its own, in turn and in every other round backwards; medians are printed, with the
packages that take most of the time of import beyond the reference (of one more start, by `-X importtime`).

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
        seconds = interleaved({name: partial(start, command) for name, command in words.items()}, args.rounds)
        spent = {name: packages(command) for name, command in words.items()}
    table, names = [], list(PROGRAMS)
    for name, (_, beside) in PROGRAMS.items():
        if beside is None:
            table.append([name, seconds[name], "", "", ""])
            continue
        reference = names[beside]
        more = (spent[name] - spent[reference]).most_common(5)
        shown = ", ".join(f"{package} {taken:.2f}" for package, taken in more if taken >= 0.02)
        times, above = seconds[name] / seconds[reference], seconds[name] - seconds[reference]
        table.append([name, seconds[name], times, above, shown])
    headings = ["program", "seconds", "x transformers", "seconds above", "most of it, seconds of import"]
    show(f"Medians of {args.rounds} starts", headings, table, args.output)


if __name__ == "__main__":
    main()
