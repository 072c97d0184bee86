"""Two or more runs side by side: scores with intervals, a paired test, and one sentence that says what it means.

A run is the folder of a finished recipe, or a folder that holds the runs of several seeds; all must have been scored
on the same examples. The first one is what the others are compared with.
Run:  python recipes/compare_runs.py runs/direct runs/pretrained
      python recipes/compare_runs.py runs/direct runs/decay --output_dir runs/comparison
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

from bertcls.process import one_line_errors
from bertcls.report.compare import compare_arms, load_arms, verdict
from bertcls.report.formats import format_p
from bertcls.report.statistics import accuracy_interval, wilson_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend that needs no screen)


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
                "accuracies": accuracies.tolist(),
                "accuracy": float(accuracies.mean()),
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
    print(verdict(arms, rows))

    # 3. Figures and numbers
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        facts = {"runs": found, "differences": rows, "verdict": verdict(arms, rows)}
        Path(output_dir, "comparison.json").write_text(json.dumps(facts, indent=2) + "\n")
        draw_scores(found, Path(output_dir, "scores.png"))
        draw_curves({arm.name: folder for arm, folder in zip(arms, folders)}, Path(output_dir, "curves.png"))
    return rows


def peak(records: list[dict], where: str) -> float | None:
    """GiB that the largest of the runs used of the process's memory or the accelerator's."""
    return max((record["peak_memory_gib"].get(where) or 0 for record in records if record), default=0) or None


def draw_scores(found: list[dict], path: Path) -> None:
    """The mean of each arm with its 95 % interval, beside its runs."""
    figure, axes = plt.subplots(figsize=(2 + 1.4 * len(found), 4), layout="constrained")
    for place, arm in enumerate(found):
        ends = [[arm["accuracy"] - arm["low"]], [arm["high"] - arm["accuracy"]]]
        axes.errorbar(
            place,
            arm["accuracy"],
            ends,
            fmt="s",
            color="#08519c",
            capsize=6,
            label="_" * bool(place) + "mean, 95 % interval",
        )
        axes.plot(
            [place + 0.15] * len(arm["accuracies"]),
            arm["accuracies"],
            "o",
            color="#9ecae1",
            label="_" * bool(place) + "a run",
        )
    axes.legend()  # whose labels begin with _ but for the first arm's
    axes.set(ylabel="accuracy on the reported split", xlim=(-0.5, len(found) - 0.5))
    axes.set_xticks(range(len(found)), [arm["name"] for arm in found])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(folders: dict[str, str], path: Path) -> None:
    """Loss of training and accuracy of validation over the epochs, a colour for the runs of each folder."""
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for number, (label, folder) in enumerate(folders.items()):
        for run in [Path(folder), *sorted(Path(folder).glob("*/"))]:  # of several seeds a line each
            states = list(run.glob("checkpoints/checkpoint-*/trainer_state.json"))
            if not states:
                continue
            history = json.loads(max(states, key=lambda state: state.stat().st_mtime).read_text())["log_history"]
            for axes, key in ((losses, "loss"), (scores, "eval_accuracy")):
                points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
                axes.plot(*zip(*points) if points else ([], []), ".-", color=f"C{number}", alpha=0.6, label=label)
            label = None
    losses.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="validation accuracy")
    if scores.lines:
        scores.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders; the first is what the others are compared with")
    parser.add_argument("--output_dir", help="folder for comparison.json, scores.png and curves.png; none: print only")
    arguments = parser.parse_args()
    with one_line_errors():
        main(arguments.runs, arguments.output_dir)
