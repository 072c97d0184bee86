"""Runs side by side: scores with intervals, paired tests, what differs, and sentences that say what it means.

A run is the folder of a finished recipe, of its --folds, or of the runs of several seeds; all must have been scored on
the same examples. The first one is what the others are compared with; one folder of seeds is summed up.
Run:  python recipes/compare_runs.py runs/direct runs/pretrained
      python recipes/compare_runs.py runs/direct runs/decay --output_dir runs/comparison --metrics f1_macro
      python recipes/compare_runs.py runs/seeds       (mean, standard deviation and interval)
      python recipes/compare_runs.py runs/sizes       (of --train_sizes: would more labels help?)
"""

import json
from pathlib import Path

import numpy as np

from bertcls.process import OptionParser, one_line_errors
from bertcls.report.compare import (
    SIZES,
    Arm,
    compare_arms,
    describe_differences,
    describe_growth,
    load_arms,
    read_growth,
)
from bertcls.report.figures import draw_arm_curves, draw_arms, draw_growth
from bertcls.report.formats import format_duration, format_p, format_score


def main(folders: list[str], output_dir: str | None = None, metrics: list[str] | None = None) -> list[dict]:
    # 0. One run of several sizes: a curve
    if len(folders) == 1 and any(Path(folders[0]).glob(SIZES)):
        return grow(folders[0], output_dir)

    # 1. Read, and refuse what cannot be compared
    arms = load_arms(folders)
    if len(arms) == len(arms[0].values) == 1:
        raise ValueError("Found 1 run; expected two, or a folder with the runs of several seeds. Name another folder.")
    rows = compare_arms(arms)
    found = [summary(arm, metrics or []) for arm in arms]

    # 2. A line a run
    error, width = arms[0].regression, max(len(arm.name) for arm in arms)
    measure = "mean absolute error" if error else "accuracy"
    heads = [f"{name} (sd)" for name in (measure, *(metrics or []))]
    print("  ".join(["run".ljust(width), "seeds", heads[0], "95 % interval   ", *heads[1:], "training", "memory"]))
    for arm, one in zip(arms, found):
        examples = arm.values.shape[1]
        mean, low, high = (format_score(one[key], examples, error=error) for key in ("mean", "low", "high"))
        spreads = [(one["mean"], one["sd"]), *((m["mean"], m["sd"]) for m in one["metrics"].values())]
        cells = [
            f"{format_score(value, examples, error=error)} ({'-' if sd is None else f'{sd:.2g}'})".ljust(len(head))
            for (value, sd), head in zip(spreads, heads)
        ]
        seconds, memory = one["train_seconds"], one["peak_memory_gib"]
        used = " + ".join(f"{n:.1f} GiB{' GPU' * (where == 'accelerator')}" for where, n in memory.items() if n)
        interval = f"{low} to {high}".ljust(16)
        trained = format_duration(seconds) if seconds else "-"
        print(
            "  ".join([arm.name.ljust(width), f"{len(arm.values):5d}", cells[0], interval, *cells[1:], trained, used])
        )

    # 3. What differs, and what it means
    for row in rows:
        options = [f"{key} {other or 'not given'} for {one or 'none'}" for key, (one, other) in row["options"].items()]
        print(f"{row['name']}, other than {arms[0].name}: {'; '.join(options) or 'no option that is known'}")
        print(f"  {row['answers_changed']:,} of {arms[0].values.shape[1]:,} texts have another answer")
        if row["p_value"] is not None:
            test = "Paired test" if error else "McNemar"
            print(f"{test}, {row['name']} and {arms[0].name}: p {format_p(row['p_value'], '= ')}")
    verdict = describe_differences(arms, rows)
    print(verdict or f"{arms[0].name}: {measure} {mean} ({low} to {high}) over {len(arms[0].values)} runs.")

    # 4. Figures and numbers
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        facts = {"measure": measure, "runs": found, "differences": rows, "verdict": verdict}
        written = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        Path(output_dir, "comparison.json").write_text(written, encoding="utf-8")
        draw_arms(found, measure, Path(output_dir, "scores.png"))
        draw_arm_curves({arm.name: arm.logs for arm in arms}, Path(output_dir, "curves.png"))
    return rows


def grow(folder: str, output_dir: str | None) -> list[dict]:
    sizes = read_growth(folder)
    names = dict.fromkeys(name for size in sizes for name in size["beside"])
    print("  ".join(["rows".rjust(8), sizes[0]["measure"], "95 % interval   ", *names]))
    for size in sizes:
        ends = f"{size['low']:.3f} to {size['high']:.3f}".ljust(16)
        scores = [f"{size['beside'][name]:.3f}" if name in size["beside"] else "-" for name in names]
        others = [score.ljust(len(name)) for name, score in zip(names, scores)]
        mean = f"{size['mean']:.3f}".ljust(len(size["measure"]))
        print("  ".join([f"{size['rows']:8,d}", mean, ends, *others]))
    print(said := describe_growth(sizes))
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        rows = [{key: value for key, value in size.items() if key != "values"} for size in sizes]
        facts = json.dumps({"sizes": rows, "verdict": said}, indent=2, ensure_ascii=False) + "\n"
        Path(output_dir, "growth.json").write_text(facts, encoding="utf-8")
        draw_growth(sizes, Path(output_dir, "growth.png"))
    return sizes


def summary(arm: Arm, metrics: list[str]) -> dict:
    """The scores of an arm: for other examples, and where it has several runs for other seeds."""
    means, (low, high) = arm.values.mean(1), arm.interval()
    seconds = [one["scores"]["train_runtime"] for one in arm.facts if "train_runtime" in one["scores"]]
    peaks = [record["peak_memory_gib"] for record in arm.records if record]
    return {
        "name": arm.name,
        "values": means.tolist(),
        **spread(means.tolist()),
        "low": low,
        "high": high,
        "metrics": {name: spread(scores_of(arm, name)) for name in metrics},
        "train_seconds": float(np.mean(seconds)) if seconds else None,
        "peak_memory_gib": {
            where: max((peak.get(where) or 0 for peak in peaks), default=0) or None
            for where in ("process", "accelerator")
        },
    }


def spread(values: list[float]) -> dict:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def scores_of(arm: Arm, name: str) -> list[float]:
    """A score of the reported rows, of each run."""
    scores = [one["scores"] for one in arm.facts]
    shared = set.intersection(*({key for key, value in one.items() if isinstance(value, float)} for one in scores))
    if f"test_{name}" not in shared:
        known = ", ".join(sorted(key.removeprefix("test_") for key in shared if key.startswith("test_")))
        raise ValueError(f"Found --metrics {name}, which not all runs of {arm.name} have; expected one of {known}.")
    return [one[f"test_{name}"] for one in scores]


if __name__ == "__main__":
    parser = OptionParser(__doc__)
    parser.add_argument("runs", nargs="+", help="folders; the first is what the others are compared with")
    parser.add_argument("--output_dir", help="folder for comparison.json, scores.png and curves.png; none: print only")
    parser.add_argument("--metrics", nargs="+", help="further scores of metrics.json to show, such as f1_macro")
    with one_line_errors():
        arguments = parser.parse_args()
        main(arguments.runs, arguments.output_dir, arguments.metrics)
