"""A small encoder that learns all-MiniLM-L6-v2's vectors of reviews and posts: 5 MB with its vocabulary.

Texts: the unlabelled reviews of IMDB, and the training posts of 20 Newsgroups without headers, quotes and signatures.
Run:  python benchmarks/small_encoder.py --imdb stanfordnlp/imdb --model sentence-transformers/all-MiniLM-L6-v2
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from bertcls import load_newsgroups

ROOT = Path(__file__).parent.parent
SIZES = ["--layers", "2", "--hidden_size", "192", "--vocab_size", "8000", "--num_train_epochs", "3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", default="stanfordnlp/imdb", help="Hub id or folder")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="the teacher")
    parser.add_argument("--reviews", type=int, default=24_000)
    parser.add_argument("--posts", type=int, default=4_000)
    parser.add_argument("--output_dir", default="runs/small-encoder")
    args = parser.parse_args()
    texts = load_dataset(args.imdb, split="unsupervised").shuffle(seed=1).select(range(args.reviews))["text"]
    posts = load_newsgroups(categories=["all"], remove=["headers", "footers", "quotes"])["train"]["text"]
    path = Path(args.output_dir + ".parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    posts = [post for post in posts if post.strip()][: args.posts]  # they stand in the order of their numbers
    pq.write_table(pa.table({"text": [*texts, *posts]}), path)
    recipe = [sys.executable, str(ROOT / "recipes" / "encoder_distill.py"), "--train_file", str(path)]
    words = ["--model_name_or_path", args.model, *SIZES, "--output_dir", args.output_dir]
    subprocess.run([*recipe, *words], check=True)


if __name__ == "__main__":
    main()
