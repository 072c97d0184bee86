"""Time and peak memory of the SST-2 recipe's training on a CPU as the work grows: rows, tokens, processes.

Each case trains one epoch in a process of its own (or two, over gloo), so that the peak is its own. The first step is
not counted.
Run:  python benchmarks/train_growth.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse
import os
import tempfile

import torch
from accelerate import PartialState
from datasets import ClassLabel, Dataset
from machine import ask, show, tell
from train_throughput import recipe
from transformers import set_seed

from bertcls import cores_per_process, load_splits

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
    args.device, args.cpu_threads = "cpu", cores_per_process()
    args.folder = args.case_folder
    words = [] if tokens is None else ["--max_length", str(tokens)]
    _, seconds = recipe(train, args, BATCH // processes, 1, *words)
    return {"seconds": seconds, "examples": rows - BATCH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--case", choices=list(CASES), help="only this one, in this process")
    parser.add_argument("--case_folder", help="of the case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    if args.case:
        found = measure(args, *CASES[args.case])
        if PartialState().is_main_process:
            tell(**found)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return
    found = {case: [] for case in CASES}
    for _ in range(args.rounds):
        for case, (_, _, processes) in CASES.items():
            launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
            words = ["--model_name_or_path", args.model_name_or_path, "--dataset_name", args.dataset_name]
            with tempfile.TemporaryDirectory() as folder:
                words += ["--case", case, "--case_folder", folder]
                found[case].append(ask(*launch, __file__, *words, env={**os.environ, "ACCELERATE_USE_CPU": "true"}))
            print(f"{case}: {found[case][-1]}", flush=True)
    table = []
    for case, turns in found.items():
        seconds = sorted(turn["seconds"] for turn in turns)[len(turns) // 2]
        examples = turns[0]["examples"]
        peak = max(turn["peak"] for turn in turns)
        table.append([case, seconds, 1000 * seconds / examples, examples / seconds, peak])
    headings = ["work", "seconds", "ms an example", "examples/s", "peak GiB a process"]
    title = f"One epoch at batch {BATCH}, median of {args.rounds} rounds, {cores_per_process()} cores"
    show(title, headings, table, args.output)


if __name__ == "__main__":
    main()
