"""MiniLM made static by model2vec, with logistic regression, beside encoders that a recipe trained, on SST-2.

A static encoder looks up a vector for each token and takes their mean: no other is as fast. It is fitted on the rows
that the recipe draws for --seed, and judged on the validation sentences; texts a second are those of programs that
read raw texts, in turn, in this process.

Run:  pip install "model2vec[distill]"
      python benchmarks/static_vectors.py --data $DATA --model $MODEL --runs runs/box runs/sst2
"""

import argparse

import numpy as np
from machine import interleaved, show
from sklearn.linear_model import LogisticRegression

from bertcls import TextClassifier, load_splits
from bertcls.data.labels import label_array
from bertcls.data.splits import arrange_splits, draw_rows
from bertcls.process import cores_per_process, use_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sst2, as the Hub has it")
    parser.add_argument("--model", required=True, help="the encoder that is made static")
    parser.add_argument("--runs", nargs="*", default=[], help="folders of runs on SST-2")
    parser.add_argument("--dimensions", type=int, default=256, help="of the static vectors")
    parser.add_argument("--rows", type=int, nargs="+", default=[8000, 10**9], help="of train")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    from model2vec.distill import distill  # no requirement of ours

    use_cores()
    static = distill(model_name=args.model, pca_dims=args.dimensions)
    parts, _ = arrange_splits(load_splits(f"{args.data}/sst2"), phrases=True)
    texts, labels = parts["test"]["text"][:], label_array(parts["test"])
    table, ways = [], {}
    for rows in args.rows:
        train = draw_rows(parts["train"], rows, seed=args.seed)
        head = LogisticRegression(C=1, max_iter=1000).fit(static.encode(train["text"][:]), label_array(train))
        ways["static"] = lambda head=head: head.predict(static.encode(texts))
        table.append([f"static, {len(train):,} rows", "static", float(np.mean(ways["static"]() == labels))])
    for folder in args.runs:
        model = TextClassifier.from_pretrained(folder, device="cpu")
        ways[folder] = lambda model=model: model.logits(texts).argmax(-1)
        table.append([folder, folder, float(np.mean(ways[folder]() == labels))])
    seconds = interleaved(ways, args.rounds)
    rows = [[name, f"{accuracy:.4f}", len(texts) / seconds[way]] for name, way, accuracy in table]
    show(f"{len(texts)} sentences, {cores_per_process()} threads", ["encoder", "accuracy", "texts/s"], rows)


if __name__ == "__main__":
    main()
