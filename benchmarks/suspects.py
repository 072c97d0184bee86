"""Wrong labels found by folds: rows of SST-2 with some labels turned, and which of them are among the first suspects.

The recipe runs with `--folds 5`; cleanlab (`pip install cleanlab`, in a Python of its own: --others) ranks the same
out-of-fold probabilities by its default.
Run:  python benchmarks/suspects.py --data $DATA --model $MODEL --output_dir runs/suspects --others PYTHON
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import load_dataset
from machine import show

HERE = Path(__file__).parent
CLEANLAB = """
import sys
import numpy as np
from cleanlab.filter import find_label_issues
labels, probabilities = np.load(sys.argv[1]), np.load(sys.argv[2])
by = {"return_indices_ranked_by": "self_confidence", "filter_by": "prune_by_noise_rate", "n_jobs": 1}
print(*find_label_issues(labels, probabilities, **by))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sst2, as the Hub has it")
    parser.add_argument("--model", required=True, help="encoder")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--others", help="Python that has cleanlab")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turned", type=float, default=0.05, help="share of the labels")
    parser.add_argument("--first", type=int, default=50, help="suspects that are looked at")
    parser.add_argument("--options", default="", help="further options of the recipe")
    options = parser.parse_args()
    random, folder = np.random.default_rng(0), Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    train = load_dataset(f"{options.data}/sst2", split="train")
    long = [row for row, text in enumerate(train["sentence"][:]) if len(text.split()) >= 8]  # phrases say little
    rows = train.select(random.permutation(long)[: options.rows])
    labels = np.array(rows["label"][:])
    turned = random.permutation(len(labels))[: round(options.turned * len(labels))]
    given = labels.copy()
    given[turned] = 1 - given[turned]
    table = pd.DataFrame({"id": range(len(labels)), "text": rows["sentence"][:], "label": given})
    table["label"] = np.array(["negative", "positive"])[given]
    table.to_csv(folder / "mine.csv", index=False)
    command = [sys.executable, str(HERE.parent / "recipes" / "csv_finetune.py"), "--folds", "5", "--id_column", "id"]
    command += ["--train_file", str(folder / "mine.csv"), "--model_name_or_path", options.model, "--seed", "1"]
    command += ["--output_dir", str(folder / "run"), *options.options.split()]
    if not (folder / "run").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (report,) = (folder / "run").rglob("suspects.csv")
    found = {"suspects.csv": pd.read_csv(report)["id"].tolist()}
    answers = pd.read_parquet(report.parent / "predictions.parquet").set_index("id").sort_index()
    answers.index = answers.index.astype(int)
    answers = answers.sort_index()
    probabilities = answers[["probability_negative", "probability_positive"]].to_numpy()
    if options.others:
        np.save(folder / "labels.npy", given[answers.index])
        np.save(folder / "probabilities.npy", probabilities)
        words = [options.others, "-c", CLEANLAB, str(folder / "labels.npy"), str(folder / "probabilities.npy")]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        found["cleanlab"] = [int(answers.index[int(place)]) for place in said]
    lines = []
    for name, suspects in found.items():
        first = suspects[: options.first]
        right = len({*first} & {*turned.tolist()})
        lines.append([name, len(suspects), right / len(first), right / len(turned)])
    score = json.loads((report.parent / "metrics.json").read_text())["scores"]["test_accuracy"]
    title = f"{len(labels)} rows, {len(turned)} turned; accuracy by the given labels {score:.3f}"
    show(title, ["ranking", "suspects", f"precision of {options.first}", f"recall of {options.first}"], lines)


if __name__ == "__main__":
    main()
