"""Adapters beside full training: accuracy, time and memory of runs of the SST-2 recipe, and the peak memory of a step
of a model of bert-large's shape with random weights.

Each run and each model has a process of its own. What is finished is appended to --output, and what stands there is
not measured again; at the end the tables are printed.
Run:  python benchmarks/adapters.py --dataset_name $DATA/sst2 --model_name_or_path $MODEL --output adapters.jsonl
      python benchmarks/adapters.py --large --output adapters.jsonl
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import show
from transformers import AutoConfig, Trainer

from bertcls import BertClsConfig, BertClsForSequenceClassification, RunArguments
from bertcls.process import peak_memory, use_cores
from bertcls.training.adapters import add_adapters
from bertcls.training.cpu import FastOnCpu

RECIPE = Path(__file__).parents[1] / "recipes" / "sst2_finetune.py"
BATCH, TOKENS, STEPS = 32, 128, 2  # from the second step on the optimizer has its moments
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
WAYS = {  # of a large model: rank, 0 for all weights, and whether activations are computed twice
    "adapters, activations twice": (8, True),
    "all weights, activations twice": (0, True),
    "adapters": (8, False),
    "all weights": (0, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", help="SST-2, as the Hub has it")
    parser.add_argument("--model_name_or_path", help="encoder")
    parser.add_argument("--output", required=True, help="file of what is finished, a line each")
    parser.add_argument("--rows", type=int, default=8000, help="of train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 8], help="0: all weights train")
    parser.add_argument("--learning_rates", nargs="+", default=["default"], help="of adapters")
    parser.add_argument("--cpu_threads", type=int, help="none: the cores")
    parser.add_argument("--large", action="store_true", help="only the model of bert-large's shape")
    parser.add_argument("--way", choices=list(WAYS), help="only this one, in this process")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(step_of_large(*WAYS[args.way], args.cpu_threads)))
        return
    output = Path(args.output)
    for asked in large_ways() if args.large else runs(args):
        if any(asked.items() <= row.items() for row in read(output)):
            continue
        row = asked | (measure_large(asked["way"], args.cpu_threads) if args.large else run(asked, args))
        with output.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(row, flush=True)
    print_tables(read(output))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


ASKED = ("made_of", "rows", "rank", "learning_rate", "seed")


def runs(args: argparse.Namespace) -> list[dict]:
    made_of = f"{args.dataset_name}, {args.model_name_or_path}, {args.cpu_threads or 'all'} threads"
    return [
        {"made_of": made_of, "rows": args.rows, "rank": rank, "learning_rate": rate, "seed": seed}
        for seed in args.seeds
        for rank in args.ranks
        for rate in (args.learning_rates if rank else ["default"])
    ]


def run(asked: dict, args: argparse.Namespace) -> dict:
    """Scores, seconds of training and peak memory of a run of the recipe."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(RECIPE), "--output_dir", f"{folder}/run", "--pooling", "mean"]
        command += ["--dataset_name", args.dataset_name, "--model_name_or_path", args.model_name_or_path]
        command += ["--max_train_samples", str(asked["rows"]), "--seed", str(asked["seed"]), "--figures", "false"]
        command += ["--lora_rank", str(asked["rank"])] if asked["rank"] else []
        command += ["--cpu_threads", str(args.cpu_threads)] if args.cpu_threads else []
        command += ["--learning_rate", asked["learning_rate"]] if asked["learning_rate"] != "default" else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        scores = json.loads(Path(folder, "run", "report", "metrics.json").read_text())["scores"]
        record = json.loads(Path(folder, "run", "run.json").read_text())
        sizes = [path.stat().st_size for path in Path(folder, "run", "checkpoints").glob("*/*") if path.is_file()]
    return {
        "test_accuracy": scores["test_accuracy"],
        "eval_accuracy": scores["eval_accuracy"],
        "train_seconds": record["train_seconds"],
        "peak_gib": record["peak_memory_gib"]["process"],
        "checkpoints_gib": sum(sizes) / 2**30,
    }


def large_ways() -> list[dict]:
    return [{"way": way} for way in WAYS]


def measure_large(way: str, threads: int | None) -> dict:
    command = [sys.executable, __file__, "--output", "-", "--way", way]
    command += ["--cpu_threads", str(threads)] if threads else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def step_of_large(rank: int, twice: bool, threads: int | None) -> dict:
    """Peak memory of training steps as Trainer makes them, and of the process when the model has been built."""
    use_cores(threads)
    torch.manual_seed(0)
    encoder = AutoConfig.for_model("bert", **LARGE)
    model = BertClsForSequenceClassification(BertClsConfig(encoder=encoder, num_labels=2))
    if rank:
        add_adapters(model.encoder, rank)
    text = {"input_ids": torch.arange(1000, 1000 + TOKENS), "attention_mask": torch.ones(TOKENS, dtype=torch.int64)}
    rows = [text | {"labels": number % 2} for number in range(BATCH * STEPS)]
    built = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        args = RunArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            eval_strategy="no",
            save_strategy="no",
            train_sampling_strategy="random",
            activation_checkpointing=twice,
            disable_tqdm=True,
        )
        found = Trainer(model, args, train_dataset=rows, callbacks=[FastOnCpu()]).train().metrics
    return {
        "trained": model.num_parameters(only_trainable=True),
        "built_gib": built / 2**30,
        "peak_gib": peak_memory() / 2**30,
        "step_seconds": found["train_runtime"] / STEPS,
        "bf16": args.bf16,
        "threads": torch.get_num_threads(),
    }


def print_tables(found: list[dict]) -> None:
    cells: dict[tuple, list[dict]] = {}
    for row in found:
        if "seed" in row:
            cells.setdefault((row.get("made_of", "?"), row["rows"], row["rank"], row["learning_rate"]), []).append(row)
    table = []
    for (made_of, rows, rank, rate), group in sorted(cells.items()):
        mean = {name: float(np.mean([row[name] for row in group])) for name in group[0] if name not in ASKED}
        tested = ", ".join(f"{row['test_accuracy']:.3f}" for row in sorted(group, key=lambda row: row["seed"]))
        accuracy = [f"{mean['test_accuracy']:.3f} ({tested})", f"{mean['eval_accuracy']:.4f}"]
        costs = [f"{mean[name]:.2f}" for name in ("train_seconds", "peak_gib", "checkpoints_gib")]
        table.append([made_of, rows, f"rank {rank}" if rank else "all", rate, *accuracy, *costs])
    headings = ["of", "rows", "what trains", "learning rate", "accuracy (seeds)", "on the selection rows"]
    if table:
        show("SST-2", [*headings, "training, s", "peak, GiB", "checkpoints, GiB"], table)
    large = {row["way"]: row for row in found if "way" in row}
    whole = {twice: large.get(way, {}).get("peak_gib") for way, (rank, twice) in WAYS.items() if not rank}
    table = []
    for way, row in large.items():
        rank, twice = WAYS[way]
        share = f"{row['peak_gib'] / whole[twice]:.2f}" if rank and whole[twice] else ""
        seconds, trained = f"{row['step_seconds']:.0f}", f"{row['trained']:,}"
        table.append([way, trained, f"{row['peak_gib']:.2f}", share, f"{row['built_gib']:.2f}", seconds])
    headings = ["bert-large's shape", "parameters that train", "peak, GiB", "of all weights'", "model alone, GiB"]
    if table:
        show(f"A step of {BATCH} texts of {TOKENS} tokens", [*headings, "a step, s"], table)


if __name__ == "__main__":
    main()
