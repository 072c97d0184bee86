"""Time and peak memory of each part of a training and of a labelling as the rows grow, beside the straight line.

Texts of 12 made-up words in a parquet file; recipes/csv_finetune.py with the sample's tiny encoder, all of its parts
but for training, of which it makes one step; then recipes/predict.py. Each number of rows has a process of its own,
whose peak is set back before each part (on Linux). Exponents are those of a power of the rows, between two numbers of
them: 1 is a straight line.

Run:  python benchmarks/growth.py                                          (100,000 to 10,000,000 rows: hours)
      python benchmarks/growth.py --rows 10000 100000 --output growth.jsonl
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import show
from predict_memory import measure as measure_predict
from predict_memory import save_model

RECIPES = Path(__file__).parents[1] / "recipes"
WORDS_A_TEXT, VOCABULARY = 12, 50_000  # words, drawn by Zipf's law with exponent 1.1
ROWS_AT_A_TIME = 100_000
PARTS = {  # names in the recipe, and what they are called here
    "load_splits": "load",
    "arrange_splits": "hold out",
    "audit_run": "audit",
    "tokenize_splits": "clean and tokenize",
    "train": "to the first step, and a checkpoint",
    "evaluate": "evaluate",
    "finish_run": "save, score, report",
}


def write_rows(path: Path, rows: int) -> None:
    """Made-up texts of two classes; one in a hundred stands there twice."""
    draw = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema({"text": pa.string(), "label": pa.string()})) as writer:
        for start in range(0, rows, ROWS_AT_A_TIME):
            numbers = draw.zipf(1.1, (min(ROWS_AT_A_TIME, rows - start), WORDS_A_TEXT)) % VOCABULARY
            numbers[50::100] = numbers[::100][: len(numbers[50::100])]
            texts = [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]
            labels = np.where(numbers[:, 0] % 2, "odd", "even")
            writer.write_table(pa.table({"text": texts, "label": labels}))


def measure(rows: int) -> dict[str, dict]:
    """Seconds and peak of each part of a run of the recipe, in this process."""
    sys.path.insert(0, str(RECIPES))
    import csv_finetune as recipe

    from bertcls.process import peak_memory
    from bertcls.training.launch import parse_runs

    found: dict[str, dict] = {}
    resets = Path("/proc/self/clear_refs")  # of Linux

    def timed(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args, **options):
            if resets.exists():
                resets.write_text("5")  # the peak begins anew
            start = time.perf_counter()
            answer = function(*args, **options)
            found[PARTS[name]] = {"seconds": time.perf_counter() - start, "peak_gib": peak_memory() / 2**30}
            print(rows, PARTS[name], found[PARTS[name]], file=sys.stderr, flush=True)
            return answer

        return call

    for name in PARTS.keys() - {"train", "evaluate"}:
        setattr(recipe, name, timed(name, getattr(recipe, name)))
    for name in ("train", "evaluate"):
        setattr(recipe.Trainer, name, timed(name, getattr(recipe.Trainer, name)))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder, "rows.parquet"), rows)
        words = ["--train_file", f"{folder}/rows.parquet", "--output_dir", f"{folder}/run", "--max_steps", "1"]
        words += ["--model_name_or_path", str(RECIPES / "sample" / "tiny-bert"), "--from_scratch"]
        words += ["--max_length", "64", "--pooling", "mean", "--disable_tqdm", "true", "--eval_strategy", "no"]
        for args, training_args in parse_runs(recipe.RecipeArguments, words, defaults=recipe.DEFAULTS):
            recipe.main(args, training_args)
        save_model(Path(folder, "model"))
        labelled = measure_predict(Path(folder), ".parquet", rows)
    return found | {"predict.py": {"seconds": labelled["seconds"], "peak_gib": labelled["peak_gib"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--output", help="file of finished numbers of rows, a line each, that are not measured again")
    parser.add_argument("--alone", action="store_true", help="in this process")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args.rows[0])))
        return
    path = Path(args.output) if args.output else None
    lines = path.read_text().splitlines() if path is not None and path.is_file() else []
    found = {rows: parts for rows, parts in map(json.loads, lines) if rows in args.rows}
    for rows in args.rows:
        if rows not in found:
            command = [sys.executable, __file__, "--alone", "--rows", str(rows)]
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"HF_DATASETS_CACHE": cache}
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            found[rows] = json.loads(said.splitlines()[-1])
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps([rows, found[rows]]) + "\n")
    table = []
    for part in found[args.rows[0]]:
        cells = [found[rows][part] for rows in args.rows]
        row = [part, *(f"{cell['seconds']:.1f} s, {cell['peak_gib']:.2f} GiB" for cell in cells)]
        for key in ("seconds", "peak_gib"):
            pairs = zip(zip(args.rows, cells), zip(args.rows[1:], cells[1:]))
            powers = (math.log(b[key] / a[key]) / math.log(more / less) for (less, a), (more, b) in pairs)
            row.append(", ".join(f"{power:.2f}" for power in powers))
        table.append(row)
    headings = ["part", *(f"{rows:,} rows" for rows in args.rows), "exponents of time", "of memory"]
    show("Growth", headings, table)


if __name__ == "__main__":
    main()
