"""Texts per second, accuracy and steadiness of every engine, beside `transformers.pipeline` and one text a forward.

All answer the same texts with the same model, in interleaved rounds of one process, so that noise of the machine meets
all; medians are printed. The baselines cut a text at one window, and do not clean it. `moves` is how far a text's
probability moves when it is answered alone, padded to its own length, in place of among all texts.
Run:  python benchmarks/inference_engines.py --model_name_or_path runs/sst2 --dataset_name $DATA/sst2
      python benchmarks/inference_engines.py --model_name_or_path runs/sst2 --dataset_name $DATA/imdb --split test --max_samples 200
"""  # noqa: E501

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification, pipeline

from bertcls import TextClassifier, export_onnx, label_array, load_splits, load_tokenizer, texts_of

ENGINES = {
    "torch fp32": ("torch", "float32"),
    "torch bf16": ("torch", "bfloat16"),
    "torch int8": ("torch", "int8"),
    "onnx fp32": ("onnx", "float32"),
    "onnx int8": ("onnx", "int8"),
}
BASELINES = {"pipeline": 1, "pipeline, batch 32": 32}  # texts of a batch; 1 is the pipeline's default
PADDED = 128  # tokens of every text of the baseline that answers one text a forward


def pipeline_answers(run: str, batch_size: int, max_length: int) -> Callable[[list[str]], np.ndarray]:
    """Probabilities `[texts, num_labels]` as `transformers.pipeline` gives them."""
    classify = pipeline("text-classification", model=run, device="cpu", batch_size=batch_size, dtype=torch.float32)
    names = [classify.model.config.id2label[label] for label in range(classify.model.config.num_labels)]

    def answer(texts: list[str]) -> np.ndarray:
        found = classify(texts, top_k=None, truncation=True, max_length=max_length)
        scores = [{row["label"]: row["score"] for row in rows} for rows in found]
        return np.array([[row[name] for name in names] for row in scores])

    return answer


def padded_answers(run: str) -> Callable[[list[str]], np.ndarray]:
    """Probabilities `[texts, num_labels]` from one text a forward, padded to 128 tokens."""
    model = AutoModelForSequenceClassification.from_pretrained(run, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(run)
    settings = dict(padding="max_length", truncation=True, max_length=PADDED, return_tensors="pt")

    @torch.inference_mode()
    def answer(texts: list[str]) -> np.ndarray:
        return torch.cat([model(**tokenizer(text, **settings)).logits.softmax(-1) for text in texts]).numpy()

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a run with one label a text")
    parser.add_argument("--onnx_folder", help="an export of it with --int8; none: export it now, for this run alone")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--max_samples", type=int, help="texts drawn from the split; none: all")
    parser.add_argument("--alone_samples", type=int, default=100, help="texts that are also answered alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    run, place = args.model_name_or_path, tempfile.TemporaryDirectory()
    folder = args.onnx_folder or f"{place.name}/onnx"
    if args.onnx_folder is None:
        export_onnx(run, folder, int8=True)
    split = load_splits(args.dataset_name)[args.split].shuffle(seed=0)
    split = split.select(range(min(args.max_samples or len(split), len(split))))
    texts, labels = texts_of(split), label_array(split)

    answers = {}
    for name, (backend, dtype) in ENGINES.items():
        classifier = TextClassifier.from_pretrained(
            folder if backend == "onnx" else run, backend, dtype=dtype, device="cpu"
        )
        answers[name] = classifier.probabilities
    max_length = classifier.model.config.max_length or classifier.tokenizer.model_max_length
    for name, batch_size in BASELINES.items():
        answers[name] = pipeline_answers(run, batch_size, max_length)
    answers[f"one a forward, padded to {PADDED}"] = padded_answers(run)

    seconds, found = {name: [] for name in answers}, {}
    for answer in answers.values():
        answer(texts[:8])  # what the first call prepares
    for number in range(args.rounds):
        for name in list(answers)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            found[name] = answers[name](texts)
            seconds[name].append(time.perf_counter() - start)

    rows, speed = [], {name: len(texts) / float(np.median(times)) for name, times in seconds.items()}
    exact = found["torch fp32"]
    few = range(min(args.alone_samples, len(texts)))
    for name in answers:
        row = {"engine": name, "texts_per_second": speed[name]}
        row |= {f"times {other}": speed[name] / speed[other] for other in list(answers)[len(ENGINES) :]}
        row["accuracy"] = float((found[name].argmax(-1) == labels).mean())
        row["agreement"] = float((found[name].argmax(-1) == exact.argmax(-1)).mean())
        if name in ENGINES:
            moved = np.array([np.abs(answers[name]([texts[i]])[0] - found[name][i]).max() for i in few])
            row |= {
                "largest_difference": float(np.abs(found[name] - exact).max()),
                "moves_at_most": float(moved.max()),
                "moves_mean": float(moved.mean()),
            }
        row["seconds"] = seconds[name]
        rows.append(row)

    headings = (
        "texts/s",
        *(f"/ {name}" for name in list(answers)[len(ENGINES) :]),
        "accuracy",
        "agrees",
        "off",
        "moves",
    )
    print(f"{len(texts)} texts, {args.rounds} rounds, {torch.get_num_threads()} threads")
    print("| engine |" + "".join(f" {heading} |" for heading in headings))
    print("|---|" + "---|" * len(headings))
    for row in rows:
        ratios = " | ".join(f"{value:.2f}" for name, value in row.items() if name.startswith("times "))
        shifts = [f"{row[name]:.1e}" if name in row else "" for name in ("largest_difference", "moves_at_most")]
        print(
            f"| {row['engine']} | {row['texts_per_second']:.0f} | {ratios} | {row['accuracy']:.4f} | "
            f"{row['agreement']:.4f} | {shifts[0]} | {shifts[1]} |"
        )
    if args.output:
        facts = {
            "texts": len(texts),
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rows": rows,
        }
        with open(args.output, "w") as file:
            json.dump(facts, file, indent=2)


if __name__ == "__main__":
    main()
