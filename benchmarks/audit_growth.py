"""Time and memory of the audit as a data set grows: short texts made up here, or a data set of yours.

Run:  python benchmarks/audit_growth.py                              (10,000 to 1,000,000 texts of 12 words)
      python benchmarks/audit_growth.py --dataset_name $DATA/imdb    (whole splits of a data set)
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from bertcls import load_splits
from bertcls.audit import audit_splits
from bertcls.process import peak_memory

SIZES = (10_000, 100_000, 1_000_000)
WORDS_A_TEXT = 12
VOCABULARY = 50_000  # words, drawn by Zipf's law with exponent 1.1


def made_up(rows: int) -> DatasetDict:
    """Train, validation and test of 8:1:1 random texts; one test text in a hundred stands in train."""
    draw = np.random.default_rng(0)
    numbers = draw.zipf(1.1, (rows, WORDS_A_TEXT)) % VOCABULARY
    texts = [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]
    bounds = [0, rows * 8 // 10, rows * 9 // 10, rows]
    texts[bounds[2] :: 100] = texts[: len(texts[bounds[2] :: 100])]
    splits = DatasetDict()
    for name, start, end in zip(("train", "validation", "test"), bounds, bounds[1:]):
        ids = list(range(start, end))
        rows_of_split = Dataset.from_dict({"text": texts[start:end], "label": [i % 2 for i in ids], "example_id": ids})
        splits[name] = rows_of_split.cast_column("label", ClassLabel(names=["no", "yes"]))
    return splits


def measure(splits: DatasetDict) -> dict:
    base = peak_memory()
    start = time.perf_counter()
    findings = audit_splits(splits)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    rows = sum(findings["rows"].values())
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "microseconds_a_row": round(seconds / rows * 1e6, 1),
        "peak_gib": round(peak / 2**30, 2),
        "peak_of_the_audit_gib": round((peak - base) / 2**30, 2),
        "leaking_rows": sum(
            leak[kind] for leak in findings["leaks"].values() for kind in ("exact", "normalised", "contained")
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name")
    parser.add_argument("--rows", type=int, help="only this many made-up texts, in this process")
    args = parser.parse_args()
    if args.dataset_name or args.rows:
        splits = load_splits(args.dataset_name) if args.dataset_name else made_up(args.rows)
        print(json.dumps(measure(splits)))
        return
    for rows in SIZES:  # each in a process of its own, so that the peak is its own
        command = [sys.executable, __file__, "--rows", str(rows)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
