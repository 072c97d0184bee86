"""Labelling by recipes/predict.py on two machines of a core each, beside two processes on one machine, and Ray Data.

The machines are two network namespaces of this host. Texts a second are those of the rows beyond the first --warm, so
that starting does not count, and the answers of all ways are compared. With --kills a random machine is killed at a
random moment and the same command started again, which must give each row once.

Run:  python benchmarks/node_labels.py --model_name_or_path runs/sst2 --dataset_name $DATA/sst2 --output labels.jsonl
      python benchmarks/node_labels.py --kills 5                            (the sample's tiny model, made-up texts)
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset
from machine import show
from namespaces import Machines, kill, why_none, worker_of
from predict_memory import save_model, write_rows

RECIPES = Path(__file__).parents[1] / "recipes"
CONFIGS = RECIPES / "accelerate_configs"
PORTS = iter(range(29600, 30600))


def predict(model: str, data: Path, output: Path) -> list[str]:
    words = [str(RECIPES / "predict.py"), "--model_name_or_path", model, "--dataset_name", str(data)]
    return [*words, "--output_file", str(output), "--cpu_threads", "1"]


def on_one(model: str, data: Path, output: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file"]
    words = [*launch, str(CONFIGS / "cpu_2proc.yaml"), *predict(model, data, output)]
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"})


def start(machines: Machines, model: str, data: Path, output: Path) -> list[subprocess.Popen]:
    words, port = predict(model, data, output), str(next(PORTS))
    launch = ["accelerate", "launch", "--quiet", "--config_file", str(CONFIGS / "multi_node.yaml")]
    launch += ["--num_processes", "2", "--main_process_port", port]
    cores = sorted(os.sched_getaffinity(0))
    return [
        machines.start(
            number,
            ["taskset", "-c", str(cores[number]), *launch, "--machine_rank", str(number), *words],
            env={"GLOO_SOCKET_IFNAME": "eth0"},
        )
        for number in (0, 1)
    ]


def on_two(model: str, data: Path, output: Path) -> None:
    with Machines() as machines:
        codes = [launcher.wait() for launcher in start(machines, model, data, output)]
    if any(codes):
        raise RuntimeError(f"predict.py on two machines ended with {codes}")


def by_ray(model: str, data: Path, output: Path, python: str) -> None:
    """The program of recipes/NODES.md, with these names in it."""
    (code,) = re.findall(r"```py\n(.*?)```", (RECIPES / "NODES.md").read_text(), re.DOTALL)
    for old, new in (("new.csv", str(data)), ("runs/mine", model), ('"labels"', f'"{output}"')):
        code = code.replace(old, new)
    code = code.replace('text_column="body"', 'text_column="text"')
    code = f"import torch\ntorch.set_num_threads(1)\nimport ray\nray.init(num_cpus=2, include_dashboard=False)\n{code}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    subprocess.run([python, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)


def compare(args: argparse.Namespace) -> None:
    texts = load_dataset(args.dataset_name, split="train")["sentence"]
    texts = [texts[int(row)] for row in np.random.default_rng(0).integers(len(texts), size=args.rows)]
    ways = {"two processes on one machine": on_one, "two machines of one core": on_two}
    if args.ray:
        ways["Ray Data, two actors"] = lambda *words: by_ray(*words, python=args.ray)
    seconds, answers = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for rows in (args.warm, args.rows):
            data = Path(name, f"{rows}.parquet")
            pq.write_table(pa.table({"text": texts[:rows]}), data)
            for way, label in ways.items():
                output = Path(name, f"{rows}-{len(seconds)}.parquet")
                began = time.perf_counter()
                label(args.model_name_or_path, data, output)
                seconds[way, rows] = time.perf_counter() - began
                print(f"{way}, {rows:,} rows: {seconds[way, rows]:.0f} s", flush=True)
                table = pq.read_table(output).to_pandas()
                answers[way] = table[
                    sorted(column for column in table if column.startswith("probability_"))
                ].to_numpy()
    table, first = [], next(iter(ways))
    for way in ways:
        rate = (args.rows - args.warm) / (seconds[way, args.rows] - seconds[way, args.warm])
        of_first = (args.rows - args.warm) / (seconds[first, args.rows] - seconds[first, args.warm])
        off = f"{np.abs(answers[way] - answers[first]).max():.0e}"
        table.append([way, f"{seconds[way, args.warm]:.0f} s", rate, rate / of_first, off])
    headings = ["way", f"{args.warm:,} rows, with the start", "texts/s beyond them", "of the first", "answers off"]
    show(f"{args.rows:,} sentences", headings, table)
    if args.output:
        Path(args.output).write_text(json.dumps([dict(zip(headings, row)) for row in table]) + "\n")


def kill_machines(args: argparse.Namespace) -> None:
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name, Machines() as machines:
        folder = Path(name)
        save_model(folder / "model")
        write_rows(folder / "rows.parquet", args.rows)

        def begin(output: str) -> list[subprocess.Popen]:
            return start(machines, str(folder / "model"), folder / "rows.parquet", folder / output)

        began = time.perf_counter()
        if any(launcher.wait() for launcher in begin("whole.parquet")):
            sys.exit("predict.py failed without a kill")
        seconds = time.perf_counter() - began
        whole, right = (folder / "whole.parquet").read_bytes(), True
        print(f"undisturbed: {seconds:.0f} s")
        for number in range(1, args.kills + 1):
            launchers, wait = begin(f"{number}.parquet"), draw.uniform(0.4, 0.95) * seconds
            time.sleep(wait)
            victim = draw.randrange(2)
            worker = worker_of(launchers[victim])
            kill(launchers[victim])
            if worker is not None and worker.is_running():
                worker.kill()
            codes = [launcher.wait() for launcher in launchers]
            parts = len([*folder.glob(f"{number}.parquet.parts/part-*[0-9].parquet")])
            codes += [launcher.wait() for launcher in begin(f"{number}.parquet")]
            output = folder / f"{number}.parquet"
            same = output.is_file() and output.read_bytes() == whole
            right = right and same
            end = "the same bytes" if same else "OTHER BYTES"
            print(
                f"machine {victim} killed after {wait:.0f} s, {parts} parts whole, exit codes {codes}: {end}",
                flush=True,
            )
    sys.exit(not right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="folder of a run")
    parser.add_argument("--dataset_name", help="SST-2, as the Hub has it")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--warm", type=int, default=10_000)
    parser.add_argument("--ray", help='a Python with bertcls\' requirements and "ray[data]"; none: without Ray')
    parser.add_argument("--kills", type=int, default=0, help="in place of the comparison")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if (why := why_none()) is not None:
        sys.exit(f"error: {why}")
    (kill_machines if args.kills else compare)(args)


if __name__ == "__main__":
    main()
