"""Two or more runs side by side: scores with intervals, a paired test, and one sentence that says what it means.

A run is the folder of a finished recipe, or a folder that holds the runs of several seeds; all must have been scored
on the same examples. The first one is what the others are compared with.
Run:  python recipes/compare_runs.py runs/direct runs/pretrained
      python recipes/compare_runs.py runs/direct runs/decay --output_dir runs/comparison
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bertcls.process import one_line_errors
from bertcls.report.compare import compare_arms, describe_differences, load_arms
from bertcls.report.figures import draw_arm_curves, draw_arms
from bertcls.report.formats import format_p
from bertcls.report.statistics import accuracy_interval, wilson_interval


def main(folders: list[str], output_dir: str | None = None) -> list[dict]:
    # 1. Read, and refuse what cannot be compared
    arms = load_arms(folders)
    rows = compare_arms(arms)

    # 2. A line a run, and the sentence
    width, found = max(len(arm.name) for arm in arms), []
    print(f"{'run'.ljust(width)}  seeds  accuracy (sd over seeds)  95 % interval     training    memory")
    for arm in arms:
        accuracies = arm.right.mean(1)
        spread = float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None
        if len(accuracies) == 1:
            low, high = wilson_interval(int(arm.right.sum()), arm.right.size)
        else:  # for other examples and seeds
            low, high = accuracy_interval(arm.right)
        seconds = [result["train_runtime"] for result in arm.results if "train_runtime" in result]
        memory = {where: peak(arm.records, where) for where in ("process", "accelerator")}
        found.append(
            {
                "name": arm.name,
                "values": accuracies.tolist(),
                "mean": float(accuracies.mean()),
                "sd": spread,
                "low": low,
                "high": high,
                "train_seconds": float(np.mean(seconds)) if seconds else None,
                "peak_memory_gib": memory,
            }
        )
        scores = f"{accuracies.mean():.4f} ({'-' if spread is None else f'{spread:.4f}'})"
        used = " + ".join(
            f"{size:.1f} GiB{' GPU' * (where == 'accelerator')}" for where, size in memory.items() if size
        )
        print(
            f"{arm.name.ljust(width)}  {len(accuracies):5d}  {scores:24s}  {low:.4f} to {high:.4f}"
            f"  {f'{np.mean(seconds):.0f} s' if seconds else '-':>8s}  {used or '-':>8s}"
        )
    for row in rows:
        if row["p_value"] is not None:
            print(f"McNemar, {row['name']} and {arms[0].name}: p {format_p(row['p_value'], '= ')}")
    print(describe_differences(arms, rows))

    # 3. Figures and numbers
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        facts = {"runs": found, "differences": rows, "verdict": describe_differences(arms, rows)}
        Path(output_dir, "comparison.json").write_text(json.dumps(facts, indent=2) + "\n")
        draw_arms(found, "accuracy", Path(output_dir, "scores.png"))
        draw_arm_curves({arm.name: arm.logs for arm in arms}, Path(output_dir, "curves.png"))
    return rows


def peak(records: list[dict], where: str) -> float | None:
    """GiB that the largest of the runs used of the process's memory or the accelerator's."""
    return max((record["peak_memory_gib"].get(where) or 0 for record in records if record), default=0) or None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders; the first is what the others are compared with")
    parser.add_argument("--output_dir", help="folder for comparison.json, scores.png and curves.png; none: print only")
    arguments = parser.parse_args()
    with one_line_errors():
        main(arguments.runs, arguments.output_dir)
