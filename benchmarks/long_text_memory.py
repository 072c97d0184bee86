"""Peak memory of prediction: short texts, one very long text, and a test split with such a text in it.

Each case runs in a process of its own, with random weights of the encoder's size, since only the size matters.
Run:  python benchmarks/long_text_memory.py --model_name_or_path $MODEL
"""

import argparse
import json
import subprocess
import sys
import time

import torch
from machine import DEVICE

from bertcls import BertClsForSequenceClassification, TextClassifier, load_tokenizer
from bertcls.process import peak_memory, use_cores

CASES = ("short", "long", "split", "split with windows")
SPLIT_ROWS = 500
MAX_LENGTH = 256


def measure(name_or_path: str, case: str, characters: int) -> dict:
    use_cores()
    tokenizer = load_tokenizer(name_or_path)
    max_length = min(MAX_LENGTH, tokenizer.model_max_length)
    model = BertClsForSequenceClassification.from_encoder(
        name_or_path, num_labels=2, pooling="mean", max_length=max_length, overlap=max_length // 5
    )
    classifier = TextClassifier(model, tokenizer)
    short = "A film that starts badly but ends well. "
    long = short * (characters // len(short))
    texts = {"short": [short], "long": [long]}.get(case, [short] * SPLIT_ROWS + [long])
    classifier.predict(short)  # what the libraries take
    before = peak_memory()
    if DEVICE != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    start = time.perf_counter()
    if case == "split with windows":
        classifier.logits_with_windows(texts)
    else:
        classifier.probabilities(texts)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    return {
        "case": case,
        "texts": len(texts),
        "peak_gib": round(peak / 2**30, 2),
        "added_gib": round((peak - before) / 2**30, 2),
        "accelerator_gib": None if DEVICE == "cpu" else round(torch.accelerator.max_memory_allocated() / 2**30, 2),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--case", choices=CASES, help="only this one, in this process")
    parser.add_argument("--characters", type=int, default=1_000_000, help="of the long text")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.model_name_or_path, args.case, args.characters)))
        return
    for case in CASES:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
