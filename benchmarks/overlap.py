"""What the tokens that neighbouring windows share buy: accuracy and time of a trained model by overlap.

The same texts are answered by each overlap in interleaved rounds. Of the differences to 20 %, the last column gives
the 95 % interval over texts (paired). A run that was trained with another overlap is another --model_name_or_path.
A call adds its lines to --output.

Run:  python benchmarks/overlap.py --model_name_or_path runs/imdb --dataset_name $DATA/imdb --max_samples 2000
      python benchmarks/overlap.py --model_name_or_path runs/newsgroups --dataset_name 20newsgroups
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
from machine import interleaved, show

from bertcls import TextClassifier, load_newsgroups, load_splits
from bertcls.arguments import NewsgroupsArguments
from bertcls.data.labels import label_array
from bertcls.inference import texts_of
from bertcls.process import use_cores

SHARES = (0.0, 0.05, 0.1, 0.2)  # of the tokens of a window


def answer(classifier: TextClassifier, texts: list, overlap: int) -> np.ndarray:
    classifier.model.config.overlap = overlap
    return classifier.probabilities(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a run with one label a text")
    parser.add_argument("--dataset_name", required=True, help="20newsgroups has the groups of the recipe")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max_samples", type=int, help="texts drawn from the split; none: all")
    parser.add_argument("--longer", action="store_true", help="only texts of several windows, which overlap")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file, which gets lines more")
    args = parser.parse_args()
    use_cores()
    groups = NewsgroupsArguments()
    news = load_newsgroups(groups.categories, groups.remove) if args.dataset_name == "20newsgroups" else None
    split = load_splits(args.dataset_name if news is None else news)[args.split].shuffle(seed=0)
    classifier = TextClassifier.from_pretrained(args.model_name_or_path)
    max_length = classifier.model.config.max_length or classifier.tokenizer.model_max_length
    if args.longer:
        windows = [len(rows) for rows in classifier.tokenize(texts_of(split))["input_ids"]]
        split = split.select(np.flatnonzero(np.array(windows) > 1))
    split = split.select(range(min(args.max_samples or len(split), len(split))))
    texts, labels = texts_of(split), label_array(split)
    overlaps = {share: int(share * max_length) for share in SHARES}
    ways = {f"{share:.0%}": partial(answer, classifier, texts, overlap) for share, overlap in overlaps.items()}
    seconds = interleaved(ways, args.rounds)
    right, table = {name: ways[name]().argmax(-1) == labels for name in ways}, []
    usual = f"{SHARES[-1]:.0%}"
    for (name, way), overlap in zip(ways.items(), overlaps.values()):
        way.args[0].model.config.overlap = overlap
        found = classifier.tokenize(texts)["input_ids"]
        gap = 100 * (right[name].astype(float) - right[usual])
        interval = 1.96 * gap.std(ddof=1) / math.sqrt(len(gap))
        tokens = sum(len(window) for rows in found for window in rows)
        table.append(
            [name, overlap, float(right[name].mean()), tokens, seconds[name], seconds[usual] / seconds[name]]
            + [f"{gap.mean():+.2f} ± {interval:.2f}"]
        )
    several = sum(len(rows) > 1 for rows in found)
    title = f"{args.dataset_name}: {len(texts)} texts, {several} of several windows of {max_length} tokens"
    headings = ["overlap", "tokens", "accuracy", "tokens read", "seconds", f"x {usual}", f"points beside {usual}"]
    show(title, headings, table)
    if args.output:
        known = json.loads(args.output.read_text()) if args.output.exists() else []
        rows = [dict(zip(headings, row)) for row in table]
        known.append({"title": title, "model": args.model_name_or_path, "rounds": args.rounds, "rows": rows})
        args.output.write_text(json.dumps(known, indent=2))


if __name__ == "__main__":
    main()
