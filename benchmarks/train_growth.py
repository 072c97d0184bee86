"""Time and peak memory of the SST-2 recipe's training on a CPU as the work grows: rows, tokens, processes.

Each case trains one epoch in a process of its own (or two, over gloo), so that the peak is its own.
Run:  python benchmarks/train_growth.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse
import os
import tempfile

import numpy as np
import torch
from accelerate import PartialState
from datasets import ClassLabel, Dataset
from machine import ask_in_turn, show, tell
from train_throughput import recipe
from transformers import set_seed

from bertcls import load_splits
from bertcls.process import cores_per_process

BATCH = 32
CASES = {  # rows, tokens of each (none: as they are), processes
    "800 rows": (800, None, 1),
    "3,200 rows": (3200, None, 1),
    "12,800 rows": (12800, None, 1),
    "texts of 32 tokens": (640, 32, 1),
    "texts of 128 tokens": (320, 128, 1),
    "texts of 512 tokens": (160, 512, 1),
    "3,200 rows, 2 processes": (3200, None, 2),
}


def measure(args: argparse.Namespace, rows: int, tokens: int | None, processes: int) -> dict:
    set_seed(1)
    if tokens is None:
        train = load_splits(args.dataset_name)["train"].shuffle(seed=0).select(range(rows))
    else:
        train = Dataset.from_dict({"text": ["good " * (tokens - 2)] * rows, "label": [0, 1] * (rows // 2)})
        train = train.add_column("example_id", list(range(rows))).cast_column("label", ClassLabel(names=["a", "b"]))
    args.device, args.cpu_threads, args.seed = "cpu", cores_per_process(), 1
    words = [] if tokens is None else ["--max_length", str(tokens)]
    with tempfile.TemporaryDirectory() as args.folder:
        _, seconds = recipe(train, args, BATCH // processes, 1, *words)
    return {"seconds": seconds, "examples": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--case", choices=list(CASES), help="only this one, in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if args.case:
        found = measure(args, *CASES[args.case])
        if PartialState().is_main_process:
            tell(**found)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return

    def launch(case: str) -> list[str]:
        processes = CASES[case][-1]
        return ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []

    table = []
    for case, turns in ask_in_turn(__file__, CASES, args.rounds, option="--case", launch=launch).items():
        seconds = float(np.median([turn["seconds"] for turn in turns]))
        examples, peak = turns[0]["examples"], max(turn["peak"] for turn in turns)
        table.append([case, seconds, 1000 * seconds / examples, examples / seconds, peak])
    headings = ["work", "seconds", "ms an example", "examples/s", "peak GiB a process"]
    title = f"One epoch at batch {BATCH}, median of {args.rounds} rounds, {cores_per_process()} cores"
    show(title, headings, table, args.output)


if __name__ == "__main__":
    main()
