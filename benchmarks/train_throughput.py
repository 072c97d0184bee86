"""Training speed of the SST-2 recipe beside the usual ways, on the same rows and encoder, in interleaved rounds.

- plain loop: written by hand; each text tokenized when it is drawn and padded to 128, fp32, plain AdamW, batch 128
- stock script: Trainer's defaults with every text padded to 128 in advance, fp32, batch 8
- dynamic padding: Trainer with DataCollatorWithPadding, fp32, batch 32
- recipe: what recipes/sst2_finetune.py does between two evaluations

Each trains one epoch of rows of the same shuffle in a process of its own, after a forward and backward pass that is
not counted (the recipe makes two of its own). "Share" is 6 FLOP per parameter outside the embeddings and
real token, by the rate of bf16 matrix products measured in the same run. With `--accuracy` each trains in full
instead, at batch 32.

Run:  python benchmarks/train_throughput.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
      python benchmarks/train_throughput.py --model_name_or_path $MODEL --dataset_name $DATA/sst2 --batch_size 32
      python benchmarks/train_throughput.py --model_name_or_path $MODEL --dataset_name $DATA/sst2 --accuracy
"""

import argparse
import runpy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from machine import DEVICE, ask_in_turn, matmul_rate, show, tell, wait_for
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    layerwise_optimizer,
    load_splits,
    tokenize_windows,
    training_callbacks,
)
from bertcls.process import cores_per_process
from bertcls.training.launch import parse

RECIPE = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "sst2_finetune.py"), run_name="recipe")
PADDED = 128  # tokens of every text where padding is fixed
RATE = 5e-5
RATES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of matrix products
ARMS = {  # own batch size, and examples of a round: few where all batches are padded alike
    "plain loop": (128, 1024),
    "stock script": (8, 400),
    "dynamic padding": (32, 1280),
    "recipe, fp32": (32, 6400),  # Trainer sorts by length within 50 batches
    "recipe": (32, 6400),
    "recipe, batch 64": (64, 12800),
}


class StepTimer(TrainerCallback):
    """Seconds from the start of the first step to the end of the last."""

    def __init__(self, device: str):
        self.device, self.start, self.seconds = device, None, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = self.start or time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps:
            wait_for(self.device)
            self.seconds = time.perf_counter() - self.start


def warm_up(model: torch.nn.Module, args: argparse.Namespace, batch_size: int, tokens: int = PADDED) -> None:
    ids = torch.ones(batch_size, tokens, dtype=torch.int64, device=args.device)
    with torch.random.fork_rng():  # what is drawn afterwards is as without
        model.train()(input_ids=ids, labels=ids[:, 0]).loss.backward()
    model.zero_grad()
    wait_for(args.device)


class TextRows(torch.utils.data.Dataset):
    """Tokenizes and pads a text each time it is drawn."""

    def __init__(self, rows: Dataset, tokenizer):
        self.texts, self.labels, self.tokenizer = rows["text"][:], rows["label"][:], tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> dict:
        encoded = self.tokenizer(self.texts[row], padding="max_length", truncation=True, max_length=PADDED)
        return {**{name: torch.tensor(ids) for name, ids in encoded.items()}, "labels": torch.tensor(self.labels[row])}


def plain_loop(rows: Dataset, args: argparse.Namespace, batch_size: int, epochs: int) -> tuple:
    """The model, and the seconds that it trained."""
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path, num_labels=2).float()
    model.to(args.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    loader = DataLoader(TextRows(rows, tokenizer), batch_size, shuffle=True)
    warm_up(model, args, batch_size)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in loader:
            loss = model(**{name: tensor.to(args.device) for name, tensor in batch.items()}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
    return model, time.perf_counter() - start


def stock_trainer(rows: Dataset, args: argparse.Namespace, batch_size: int, epochs: int, fixed: bool) -> tuple:
    """The model, and the seconds that it trained."""
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path, num_labels=2).float()
    options = {"padding": "max_length" if fixed else False, "truncation": True, "max_length": PADDED}
    encoded = rows.map(lambda batch: tokenizer(batch["text"], **options), batched=True, remove_columns="text")
    timer = StepTimer(args.device)
    trainer = Trainer(
        model,
        TrainingArguments(
            args.folder,
            use_cpu=args.device == "cpu",
            per_device_train_batch_size=batch_size,
            num_train_epochs=epochs,
            learning_rate=RATE,
            seed=args.seed,
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=encoded,
        data_collator=default_data_collator if fixed else DataCollatorWithPadding(tokenizer),
        callbacks=[timer],
    )
    warm_up(model, args, batch_size, PADDED if fixed else 32)  # no longer than its batches: the peak is measured
    trainer.train()
    return model, timer.seconds


def recipe(rows: Dataset, args: argparse.Namespace, batch_size: int, epochs: int, *words: str) -> tuple:
    """The model, and the seconds that it trained."""
    words = [
        *f"--eval_strategy no --save_strategy no --disable_tqdm true --pooling mean --learning_rate {RATE}".split(),
        *f"--num_train_epochs {epochs} --per_device_train_batch_size {batch_size} --seed {args.seed}".split(),
        *(
            "--cpu_threads",
            str(args.cpu_threads),
            "--overwrite_output",
            "--output_dir",
            args.folder,
            "--model_name_or_path",
            args.model_name_or_path,
        ),
        *words,
    ]
    options, training_args = parse(RecipeArguments, words, defaults=RECIPE["DEFAULTS"])
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    settings = {"tokenizer": tokenizer, "max_length": options.max_length, "cleaning": options.cleaning}
    encoded = rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=settings)
    head = options.of(BertClsForSequenceClassification.from_encoder)
    model = BertClsForSequenceClassification.from_encoder(args.model_name_or_path, num_labels=2, **head)
    collator, timer = WindowCollator(tokenizer), StepTimer(args.device)
    Trainer(
        model=model,
        args=training_args,
        train_dataset=encoded,
        processing_class=tokenizer,
        data_collator=collator,
        callbacks=[*training_callbacks(training_args, **options.of(training_callbacks)), timer],
        optimizer_cls_and_kwargs=layerwise_optimizer(training_args, options.layer_decay, options.head_learning_rate),
    ).train()
    return model, timer.seconds


def run(arm: str, rows: Dataset, args: argparse.Namespace, batch_size: int, epochs: int = 1) -> tuple:
    set_seed(args.seed)
    if arm == "plain loop":
        return plain_loop(rows, args, batch_size, epochs)
    if arm.startswith("recipe"):
        return recipe(rows, args, batch_size, epochs, *(["--bf16", "false"] if "fp32" in arm else []))
    return stock_trainer(rows, args, batch_size, epochs, fixed=arm == "stock script")


@torch.inference_mode()
def accuracy(model, rows: Dataset, args: argparse.Namespace) -> float:
    """In fp32, each text cut at 128 tokens."""
    tokenizer, correct = AutoTokenizer.from_pretrained(args.model_name_or_path), 0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        batch = tokenizer(part["text"], padding=True, truncation=True, max_length=PADDED, return_tensors="pt")
        logits = model.eval()(**batch.to(args.device)).logits
        correct += int((logits.argmax(-1).cpu() == torch.tensor(part["label"])).sum())
    return correct / len(rows)


def measure(arm: str, args: argparse.Namespace) -> dict:
    """One training of an arm: seconds, and what a share of the machine's rate is counted from; or its accuracy."""
    splits = load_splits(args.dataset_name)
    train = splits["train"].shuffle(seed=0).select_columns(["text", "label", "example_id"])
    batch_size, examples = ARMS[arm]
    batch_size, examples = args.batch_size or batch_size, examples * (1 if args.device == "cpu" else 10)
    with tempfile.TemporaryDirectory() as args.folder:
        if args.accuracy:
            model, seconds = run(arm, train.select(range(args.train_rows)), args, 32, args.epochs)
            return {"accuracy": accuracy(model, splits["validation"], args), "seconds": seconds}
        rows = train.select(range(examples))
        model, seconds = run(arm, rows, args, batch_size)
    tokenizer, size = AutoTokenizer.from_pretrained(args.model_name_or_path), 2048 if args.device == "cpu" else 8192
    return {
        "seconds": seconds,
        "examples": examples,
        "tokens": float(np.mean([len(ids) for ids in tokenizer(rows["text"][:])["input_ids"]])),
        **{name: matmul_rate(dtype, size, args.device) for name, dtype in RATES.items()},
        "weights": sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--batch_size", type=int, help="of all; none: each its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="none: all")
    parser.add_argument("--arm", choices=list(ARMS), help="only this one, in this process")
    parser.add_argument("--accuracy", action="store_true", help="train each on --train_rows rows and score it")
    parser.add_argument("--train_rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpu_threads", type=int, default=cores_per_process())
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    args.device = DEVICE
    torch.set_num_threads(args.cpu_threads)
    alike = args.batch_size or args.accuracy
    args.arms = args.arms or [arm for arm in ARMS if not alike or "batch" not in arm]
    if args.arm:
        tell(**measure(args.arm, args))
        return

    found = ask_in_turn(__file__, args.arms, 1 if args.accuracy else args.rounds, option="--arm")
    if args.accuracy:
        title = f"Accuracy after {args.epochs} epochs of {args.train_rows} rows at batch 32, seed {args.seed}"
        table = [[arm, one["accuracy"], one["seconds"]] for arm, (one,) in found.items()]
        show(title, ["arm", "accuracy", "seconds"], table, args.output)
        return
    rate = {name: float(np.median([one[name] for turns in found.values() for one in turns])) for name in RATES}
    seconds = {arm: [one["seconds"] for one in turns] for arm, turns in found.items()}
    speed = {arm: turns[0]["examples"] / float(np.median(seconds[arm])) for arm, turns in found.items()}
    table = []
    for arm, turns in found.items():
        share = 6 * turns[0]["weights"] * turns[0]["tokens"] * speed[arm] / 1e9 / rate["bf16"]
        ratios = [speed[arm] / speed[other] if other in speed else "" for other in list(ARMS)[:3]]
        peak = max(one["peak"] for one in turns)
        table.append([arm, args.batch_size or ARMS[arm][0], speed[arm], *ratios, f"{100 * share:.0f} %", peak])
    title = (
        f"{args.rounds} rounds, {args.cpu_threads} threads on {args.device}; matrix products: "
        f"{rate['fp32']:.0f} GFLOP/s in fp32, {rate['bf16']:.0f} in bf16"
    )
    headings = ["arm", "batch", "examples/s", *(f"/ {arm}" for arm in list(ARMS)[:3]), "share", "peak GiB"]
    show(title, headings, table, args.output, seconds=seconds)


if __name__ == "__main__":
    main()
