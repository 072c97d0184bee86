"""Texts per second, accuracy and steadiness of every engine, beside `transformers.pipeline` and one text a forward.

All answer the same texts with the same model, each in a process of its own and in interleaved rounds, so that noise of
the machine meets all; medians are printed. Ours have the process that `recipes/predict.py` has. The baselines cut a
text at one window, and do not clean it. Torch computes on the accelerator where there is one. `off` is how far a
probability is at most from that of torch in fp32, `moves` how far it moves at most when a text is answered alone,
padded to its own length, in place of among all texts.
Run:  python benchmarks/inference_engines.py --model_name_or_path runs/sst2 --dataset_name $DATA/sst2
      and of long texts: --dataset_name $DATA/imdb --split test --max_samples 200
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from machine import DEVICE, ask_in_turn, show, tell
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from bertcls import TextClassifier, export_onnx, load_splits, load_tokenizer
from bertcls.data.labels import label_array
from bertcls.inference import texts_of
from bertcls.process import cores_per_process, use_cores

ENGINES = {
    "torch fp32": ("torch", "float32"),
    "torch bf16": ("torch", "bfloat16"),
    "onnx fp32": ("onnx", "float32"),
    "onnx int8": ("onnx", "int8"),
}
PADDED = 128  # tokens of every text of the baseline that answers one text a forward
PIPELINES = {"pipeline": 1, "pipeline, batch 32": 32}  # texts of a batch; 1 is the pipeline's default
BASELINES = (*PIPELINES, f"one a forward, padded to {PADDED}")
Answer = Callable[[list[str]], np.ndarray]  # probabilities [texts, num_labels]


def pipeline_answers(run: str, batch_size: int, max_length: int) -> Answer:
    """Probabilities `[texts, num_labels]` as `transformers.pipeline` gives them."""
    classify = pipeline("text-classification", model=run, device=DEVICE, batch_size=batch_size, dtype=torch.float32)
    names = [classify.model.config.id2label[label] for label in range(classify.model.config.num_labels)]

    def answer(texts: list[str]) -> np.ndarray:
        found = classify(texts, top_k=None, truncation=True, max_length=max_length)
        scores = [{row["label"]: row["score"] for row in rows} for rows in found]
        return np.array([[row[name] for name in names] for row in scores])

    return answer


def padded_answers(run: str) -> Answer:
    """Probabilities `[texts, num_labels]` from one text a forward, padded to 128 tokens."""
    model = AutoModelForSequenceClassification.from_pretrained(run, dtype=torch.float32).eval().to(DEVICE)
    tokenizer = load_tokenizer(run)
    settings = dict(padding="max_length", truncation=True, max_length=PADDED, return_tensors="pt")

    @torch.inference_mode()
    def answer(texts: list[str]) -> np.ndarray:
        batches = (tokenizer(text, **settings).to(DEVICE) for text in texts)
        return torch.cat([model(**batch).logits.softmax(-1) for batch in batches]).cpu().numpy()

    return answer


def make(engine: str, args: argparse.Namespace) -> Answer:
    run = args.model_name_or_path
    if engine in ENGINES:
        use_cores()
        backend, dtype = ENGINES[engine]
        folder = args.onnx_folder if backend == "onnx" else run
        device = "cpu" if backend == "onnx" else DEVICE
        return TextClassifier.from_pretrained(folder, backend, dtype=dtype, device=device).probabilities
    torch.set_num_threads(cores_per_process())
    if engine in PIPELINES:
        config, tokenizer = AutoConfig.from_pretrained(run), load_tokenizer(run)
        return pipeline_answers(run, PIPELINES[engine], config.max_length or tokenizer.model_max_length)
    return padded_answers(run)


def measure(engine: str, texts: list[str], args: argparse.Namespace) -> dict:
    """Seconds for all texts, and the probabilities; of ours also of single texts."""
    answer = make(engine, args)
    answer(texts[:8])  # what the first call prepares
    start = time.perf_counter()
    together = answer(texts)
    seconds = time.perf_counter() - start
    few = texts[: args.alone_samples] if engine in ENGINES else []
    alone = [answer([text])[0].tolist() for text in few]
    return {"seconds": seconds, "together": together.tolist(), "alone": alone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a run with one label a text")
    parser.add_argument("--onnx_folder", help="an export of it with --int8; none: export it now, for this run alone")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--max_samples", type=int, help="texts drawn from the split; none: all")
    parser.add_argument("--alone_samples", type=int, default=100, help="texts that are also answered alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=[*ENGINES, *BASELINES], help="only this one, in this process")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    split = load_splits(args.dataset_name)[args.split].shuffle(seed=0)
    split = split.select(range(min(args.max_samples or len(split), len(split))))
    texts, labels = texts_of(split), label_array(split)
    if args.engine:
        tell(**measure(args.engine, texts, args))
        return
    with tempfile.TemporaryDirectory() as folder:
        words = []
        if args.onnx_folder is None:
            export_onnx(args.model_name_or_path, folder, int8=True)
            words = ["--onnx_folder", folder]
        answers = ask_in_turn(__file__, [*ENGINES, *BASELINES], args.rounds, option="--engine", words=words)

    found = {name: np.array(turns[0]["together"]) for name, turns in answers.items()}
    speed = {name: len(texts) / float(np.median([one["seconds"] for one in turns])) for name, turns in answers.items()}
    exact, table = found["torch fp32"], []
    for name, turns in answers.items():
        ratios = [speed[name] / speed[other] for other in BASELINES]
        shares = [f"{(found[name].argmax(-1) == other).mean():.4f}" for other in (labels, exact.argmax(-1))]
        shifts = ["", ""]
        if name in ENGINES:
            alone = np.array(turns[0]["alone"])
            shifts = [float(np.abs(found[name] - exact).max()), float(np.abs(alone - found[name][: len(alone)]).max())]
        table.append([name, speed[name], *ratios, *shares, *shifts, max(one["peak"] for one in turns)])
    headings = [
        "engine",
        "texts/s",
        *(f"/ {name}" for name in BASELINES),
        "accuracy",
        "agrees",
        "off",
        "moves",
        "peak GiB",
    ]
    seconds = {name: [one["seconds"] for one in turns] for name, turns in answers.items()}
    title = f"{len(texts)} texts, {args.rounds} rounds, {cores_per_process()} threads"
    show(title, headings, table, args.output, seconds=seconds)


if __name__ == "__main__":
    main()
