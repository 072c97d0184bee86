"""Texts per second of tokenization: a batched map as the recipes do, a map text by text, a text when it is drawn.

Run:  python benchmarks/tokenization.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse

from datasets import Dataset
from machine import interleaved, show

from bertcls import load_splits, load_tokenizer, tokenize_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--max_samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model_name_or_path)
    split = load_splits(args.dataset_name)["train"].shuffle(seed=0)
    texts = split.select(range(min(args.max_samples, len(split))))["text"][:]
    cut = {"truncation": True, "max_length": 128}

    rows = Dataset.from_dict({"text": texts})  # in memory: nothing is cached

    def batched() -> None:
        rows.map(tokenize_windows, batched=True, fn_kwargs={"tokenizer": tokenizer, "max_length": 128})

    def one_by_one() -> None:
        rows.map(lambda row: tokenizer(row["text"], **cut))

    def when_drawn() -> None:
        for text in rows["text"]:
            tokenizer(text, padding="max_length", **cut)

    ways = {"batched map, in windows": batched, "map text by text": one_by_one, "padded when drawn": when_drawn}
    seconds = interleaved(ways, args.rounds)
    speed = {name: len(texts) / found for name, found in seconds.items()}
    table = [[name, speed[name], speed["batched map, in windows"] / speed[name]] for name in ways]
    title = f"{len(texts)} texts, median of {args.rounds} rounds"
    show(title, ["way", "texts/s", "batched is x times as fast"], table, args.output)


if __name__ == "__main__":
    main()
