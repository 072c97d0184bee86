"""Few labels: the recipe by its defaults, TF-IDF, a probe and SetFit, each as a command of its own, on equal rows.

Every finished run is appended to --output, and what stands there is not run again; without commands to run, or at the
end, the table is printed. SetFit and the probe run in a Python of their own (--others), which needs setfit alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import load_dataset
from machine import show
from sklearn.datasets import fetch_20newsgroups
from sklearn.metrics import f1_score, log_loss

HERE = Path(__file__).parent
FOUR = ["alt.atheism", "comp.graphics", "sci.med", "soc.religion.christian"]
SKEWED = [200, 60, 20, 8]  # rows of these
TESTED = 1000  # posts
TOKENS = "128"
OTHERS = """
import json, sys
import numpy as np
method, folder, model, out, seed, pairs = sys.argv[1:]
read = lambda name: [json.loads(line) for line in open(f"{folder}/{name}.jsonl", encoding="utf-8")]
train, test = read("train"), read("test")
names = sorted({row["label"] for row in train})
labels = [names.index(row["label"]) for row in train]
texts, asked = [row["text"] for row in train], [row["text"] for row in test]
if method == "probe":
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression
    encoder = SentenceTransformer(model, device="cpu")
    encoder.max_seq_length = 128
    fitted = LogisticRegression(max_iter=1000).fit(encoder.encode(texts), labels)
    answers = fitted.predict(encoder.encode(asked))
else:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    fitted = SetFitModel.from_pretrained(model, device="cpu")
    fitted.model_body.max_seq_length = 128
    how = {"num_iterations": int(pairs)} if int(pairs) else {}
    arguments = TrainingArguments(output_dir=out + ".setfit", seed=int(seed), report_to="none", **how)
    Trainer(model=fitted, args=arguments, train_dataset=Dataset.from_dict({"text": texts, "label": labels})).train()
    answers = np.asarray(fitted.predict(asked))
json.dump([names[int(answer)] for answer in answers], open(out, "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with sst2, as the Hub has it")
    parser.add_argument("--model", required=True, help="encoder")
    parser.add_argument("--output", required=True, help="file of finished runs, a line each")
    parser.add_argument("--others", help="Python that has setfit")
    parser.add_argument("--sets", nargs="+", default=["sst2", "news4"], help="sst2 news4 news20 skewed")
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32, 128], help="training texts a class")
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the draws")
    parser.add_argument("--methods", nargs="+", default=["recipe", "probe", "tfidf", "setfit"])
    parser.add_argument("--options", default="", help="further options of the recipe")
    parser.add_argument("--name", default="recipe", help="what the table calls the recipe")
    options = parser.parse_args()
    output = Path(options.output)
    done = {tuple(row[key] for key in ("set", "size", "draw", "method")) for row in read(output)}
    with tempfile.TemporaryDirectory() as folder:
        for draw in options.draws:
            for size in options.sizes:
                for name in options.sets:
                    for method in options.methods:
                        called = options.name if method == "recipe" else method
                        skipped = method == "setfit" and draw >= {8: 5, 32: 2, 128: 1}.get(size, 0)
                        if skipped or (name, size, draw, called) in done:
                            continue
                        data = Path(folder, f"{name}-{size}-{draw}")
                        write_rows(data, name, size, draw, options.data)
                        row = {"set": name, "size": size, "draw": draw, "method": called}
                        row |= run(method, data, draw, size, options)
                        with output.open("a") as lines:
                            lines.write(json.dumps(row) + "\n")
                        print(name, size, draw, called, f"{row['accuracy']:.3f} {row['seconds']:.0f} s", flush=True)
    show("Few labels", *table(read(output)))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_rows(folder: Path, name: str, size: int, draw: int, data: str) -> None:
    """Writes train.jsonl, drawn with as many texts of each class, and test.jsonl."""
    if folder.is_dir():
        return
    folder.mkdir()
    if name == "sst2":
        parts = load_dataset(f"{data}/sst2")
        train, test = (
            (parts[part]["sentence"][:], np.array(parts[part]["label"])) for part in ("train", "validation")
        )
    else:
        wanted = {"subset": None, "categories": None if name == "news20" else FOUR, "remove": ("headers",)}
        found = [fetch_20newsgroups(**wanted | {"subset": part}) for part in ("train", "test")]
        train, test = ((part.data, part.target) for part in found)
        rows = np.random.default_rng(0).permutation(len(test[1]))[:TESTED]
        test = [test[0][row] for row in rows], test[1][rows]
    random = np.random.default_rng(draw)
    sizes = SKEWED if name == "skewed" else [size] * len(np.unique(train[1]))
    rows = [random.choice(np.flatnonzero(train[1] == label), count, False) for label, count in enumerate(sizes)]
    rows = random.permutation(np.concatenate(rows))
    for part, texts, labels in (("train", [train[0][row] for row in rows], train[1][rows]), ("test", *test)):
        lines = [json.dumps({"text": text, "label": f"class {label}"}) for text, label in zip(texts, labels)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(method: str, data: Path, draw: int, size: int, options: argparse.Namespace) -> dict:
    """Accuracy, macro F1, log loss of those that give probabilities, which rows are right, and the seconds of the
    whole command, by the clock and of the processor."""
    out = data.parent / f"{data.name}-{method}-{time.time_ns()}"
    common = ["--dataset_name", str(data), "--output_dir", str(out), "--seed", str(draw), "--cleaning", "none"]
    cut = ["--max_length", TOKENS, "--truncation", "head"]
    commands = {
        "recipe": [
            *[sys.executable, str(HERE.parent / "recipes" / "csv_finetune.py"), *common, *cut],
            *["--model_name_or_path", options.model, *options.options.split()],
        ],
        "tfidf": [sys.executable, str(HERE.parent / "recipes" / "tfidf_baseline.py"), *common],
    }
    pairs = "20" if size > 32 else "0"
    command = commands.get(method) or [
        *[options.others or sys.executable, "-c", OTHERS, method, str(data), options.model, str(out), str(draw), pairs]
    ]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TQDM_DISABLE": "1"})
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr[-2000:]}")
    labels = [json.loads(line)["label"] for line in (data / "test.jsonl").read_text().splitlines()]
    if method in commands:
        table = pd.read_parquet(out / "report" / "predictions.parquet")
        labels, answers = table["label"].tolist(), table["prediction"].tolist()
        probabilities = table.filter(like="probability_").rename(columns=lambda name: name.split("_", 1)[1])
        probabilities = probabilities.div(probabilities.sum(axis=1), axis=0)  # rounded in the file
        loss = float(log_loss(labels, probabilities[sorted(probabilities)], labels=sorted(probabilities)))
    else:
        loss = None
        answers = json.loads(out.read_text())
    right = [label == answer for label, answer in zip(labels, answers)]
    said = [line for line in done.stdout.splitlines() if "rows:" in line or "head starts" in line]
    return {
        "accuracy": float(np.mean(right)),
        "log_loss": loss,
        "f1_macro": float(f1_score(labels, answers, average="macro")),
        "least_recall": float(
            min(np.mean([r for r, label in zip(right, labels) if label == name]) for name in {*labels})
        ),
        "seconds": seconds,
        "processor_seconds": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "right": "".join("01"[one] for one in right),
        "said": said,
    }


def table(rows: list[dict]) -> tuple[list[str], list[list]]:
    """A row a cell and method: mean and spread over draws, and how far the recipe is from it, with standard error."""
    found, frame = [], pd.DataFrame(rows)
    for (name, size), cell in frame.groupby(["set", "size"]):
        own = cell[cell["method"] == "recipe"].set_index("draw")
        for method, runs in cell.groupby("method", sort=False):
            runs = runs.set_index("draw")
            shared = [draw for draw in runs.index if draw in own.index]
            bits = [[np.array(list(part["right"][draw]), float) for draw in shared] for part in (own, runs)]
            beside = ""
            if shared and method != "recipe":
                differences = np.array(bits[0]) - np.array(bits[1])  # [draws, rows]
                spread = differences.mean(1).var(ddof=1) / len(shared) if len(shared) > 1 else 0.0
                error = np.sqrt(spread + differences.mean(0).var(ddof=1) / differences.shape[1])
                beside = f"{100 * differences.mean():+.1f} ± {100 * error:.1f}"
            accuracy, none = runs["accuracy"], runs["accuracy"][:0]
            losses, busy = (runs.get(name, none).astype(float).dropna() for name in ("log_loss", "processor_seconds"))
            found.append(
                {
                    "set": name,
                    "a class": size,
                    "method": method,
                    "draws": len(runs),
                    "accuracy": f"{accuracy.mean():.3f}" + (f" ± {accuracy.std():.3f}" if len(runs) > 1 else ""),
                    "macro F1": f"{runs['f1_macro'].mean():.3f}",
                    "log loss": f"{losses.mean():.3f}" if len(losses) else "",
                    "least recall": f"{runs['least_recall'].min():.2f}",
                    "seconds": f"{runs['seconds'].mean():.0f}",
                    "of a processor": f"{busy.mean():.0f}" if len(busy) else "",
                    "recipe beside it, points": beside,
                }
            )
    return list(found[0]), [list(row.values()) for row in found]


if __name__ == "__main__":
    main()
