"""Distillation on SST-2: students on the labels alone, taught on the training phrases, and on sentences of IMDB, too.

Each run is a command of `recipes/distill.py` in a folder of its own below --output_dir; those without unlabelled
sentences (0 in --counts, to be named first) also make the run on the labels alone. Finished runs are appended to
--output, and not made again; at the end the speed of the teacher and of each student is measured in turn, in this
process, and the table is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import load_dataset
from machine import interleaved, show

from bertcls import TextClassifier
from bertcls.process import cores_per_process, use_cores
from bertcls.report.statistics import mean_interval
from bertcls.training.small_encoder import cut_passages

RECIPE = Path(__file__).parents[1] / "recipes" / "distill.py"
ALONE = "labels alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="folder of a run on SST-2")
    parser.add_argument("--data", required=True, help="folder with sst2 and imdb, as the Hub has them")
    parser.add_argument("--output_dir", required=True, help="folder for the runs")
    parser.add_argument("--output", required=True, help="file of finished runs, a line each")
    parser.add_argument("--layers", nargs="*", default=["0 2 4"], help="layers of the teacher, a student each")
    parser.add_argument("--encoders", nargs="*", default=[], help="encoders, a student each")
    parser.add_argument("--counts", nargs="+", type=int, default=[0], help="so many unlabelled sentences of reviews")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--options", default="", help="further options of the recipe")
    parser.add_argument("--layer_options", default="", help="of students with layers of the teacher alone")
    parser.add_argument("--encoder_options", default="--pooling mean", help="of students by name alone")
    parser.add_argument("--mixed_options", default="", help="of runs with unlabelled sentences alone")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement of speed")
    args = parser.parse_args()
    students = {f"layers {layers}": ["--student_layers", *layers.split()] for layers in args.layers}
    students |= {Path(name).name: ["--model_name_or_path", name] for name in args.encoders}
    for seed in args.seeds:
        for student, words in students.items():
            own = args.layer_options if student.startswith("layers ") else args.encoder_options
            for count in args.counts:
                distil(student, [*words, *own.split(), *args.options.split()], count, seed, args)
    rows = [row for row in read(args.output) if row["student"] in students]
    show(f"{cores_per_process()} threads", *table(rows, speeds(rows, args), args))


def read(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).is_file() else []


def distil(student: str, words: list[str], count: int, seed: int, args: argparse.Namespace) -> None:
    """One run, and beside the first one of a student and a seed that on the labels alone."""
    taught = "phrases" if count == 0 else f"phrases and {count:,} sentences"
    if any([row["student"], row["taught"], row["seed"]] == [student, taught, seed] for row in read(args.output)):
        return
    name = student.replace(" ", "-")
    folder = Path(args.output_dir, f"{name}-{count}-seed-{seed}")
    plain = Path(args.output_dir, f"{name}-0-seed-{seed}", "plain")
    command = [sys.executable, str(RECIPE), "--teacher", args.teacher, "--dataset_name", f"{args.data}/sst2", *words]
    command += ["--output_dir", str(folder), "--overwrite_output", "--seed", str(seed), "--figures", "false"]
    if count:
        sentences = Path(args.output_dir, f"{count}.txt")
        if not sentences.is_file():
            sentences.write_text("\n".join(unlabelled_sentences(args.data, count)), encoding="utf-8")
        command += ["--unlabelled_file", str(sentences), "--plain_run", str(plain) if plain.is_dir() else "none"]
        command += args.mixed_options.split()
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TQDM_DISABLE": "1"})
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found = {taught: folder} if count else {ALONE: plain, taught: folder}
    with open(args.output, "a") as lines:
        for what, run in found.items():
            facts = json.loads((run / "report" / "metrics.json").read_text())
            answers = pd.read_parquet(run / "report" / "predictions.parquet")
            right = "".join("01"[one] for one in answers["label"] == answers["prediction"])
            row = {"student": student, "taught": what, "seed": seed, "accuracy": facts["scores"]["test_accuracy"]}
            row |= {"right": right, "train_seconds": facts["run"]["train_seconds"], "command_seconds": seconds}
            row |= {"parameters": facts["model"]["parameters"], "folder": str(run)}
            lines.write(json.dumps(row | {"teacher": facts.get("distilled", {}).get("teacher")}) + "\n")
            print(student, what, seed, f"{row['accuracy']:.4f} {seconds:.0f} s", flush=True)


def unlabelled_sentences(data: str, count: int) -> list[str]:
    """Sentences of IMDB's unlabelled reviews, each once, in an order of their own."""
    reviews = load_dataset(f"{data}/imdb", split="unsupervised")["text"][:]
    steps = ["strip_tags", "unescape_entities", "collapse_blanks"]
    found = list(dict.fromkeys(cut_passages({"text": reviews}, cleaning=steps, whole=len(reviews) + 1)["text"]))
    return [found[at] for at in np.random.default_rng(1).permutation(len(found))[:count]]


def speeds(rows: list[dict], args: argparse.Namespace) -> dict[str, float]:
    """Texts a second of the teacher and of each student, on the validation sentences, in turn."""
    use_cores()
    texts = load_dataset(f"{args.data}/sst2")["validation"]["sentence"][:]
    folders = {"teacher": args.teacher} | {row["student"]: row["folder"] for row in rows}
    models = {name: TextClassifier.from_pretrained(folder, device="cpu") for name, folder in folders.items()}
    ways = {name: (lambda model=model: model.logits(texts)) for name, model in models.items()}
    return {name: len(texts) / seconds for name, seconds in interleaved(ways, args.rounds).items()}


def table(rows: list[dict], speed: dict[str, float], args: argparse.Namespace) -> tuple[list[str], list[list]]:
    """A row a student and a way of teaching, means over seeds, beside the teacher and the labels alone."""
    answers = pd.read_parquet(Path(args.teacher, "report", "predictions.parquet"))
    of_teacher, frame = float((answers["label"] == answers["prediction"]).mean()), pd.DataFrame(rows)
    size = next(row["teacher"]["parameters"] for row in rows if row["teacher"])
    found = [["teacher", "", "", f"{of_teacher:.4f}", "", "", f"{size / 1e6:.1f}", speed["teacher"], 1.0]]
    for (student, taught), runs in frame.groupby(["student", "taught"], sort=False):
        bits = np.array([list(map(int, right)) for right in runs["right"]], float)  # [seeds, sentences]
        beside, alone = "", frame[(frame["student"] == student) & (frame["taught"] == ALONE)]
        if taught != ALONE and len(alone):
            plain = np.array([list(map(int, right)) for right in alone["right"]], float)
            low, high = mean_interval(bits, minus=plain)
            beside = f"{100 * (bits.mean() - plain.mean()):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        mean, spread = runs["accuracy"].mean(), runs["accuracy"].std()
        accuracy = f"{mean:.4f}" + (f" ± {spread:.4f}" if len(runs) > 1 else "")
        share, parameters = f"{100 * mean / of_teacher:.1f} %", f"{runs['parameters'].iloc[0] / 1e6:.1f}"
        times = speed[student] / speed["teacher"]
        found.append([student, taught, len(runs), accuracy, share, beside, parameters, speed[student], times])
    headings = "student, taught on, seeds, accuracy, of the teacher's, points over labels alone, M parameters, texts/s"
    return [*headings.split(", "), "times the teacher's"], found


if __name__ == "__main__":
    main()
