"""Texts per second of `Trainer.evaluate`: padded to 128 at batch 8 in fp32 (stock script), dynamic padding, recipe.

Run:  python benchmarks/evaluation.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse
import tempfile
import time

import numpy as np
import torch
from datasets import Dataset
from machine import ask_in_turn, show, tell
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    tokenize_windows,
)
from bertcls.process import cores_per_process
from bertcls.training.launch import parse

WAYS = ("stock script", "dynamic padding", "recipe")


def stock_trainer(rows: Dataset, model_name: str, folder: str, fixed: bool) -> Trainer:
    tokenizer = load_tokenizer(model_name)
    cut = {"padding": "max_length" if fixed else False, "truncation": True, "max_length": 128}
    return Trainer(
        AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=2).float(),
        TrainingArguments(
            folder,
            use_cpu=not torch.accelerator.is_available(),
            per_device_eval_batch_size=8 if fixed else 32,
            disable_tqdm=True,
        ),
        eval_dataset=rows.map(lambda part: tokenizer(part["text"], **cut), batched=True, remove_columns="text"),
        data_collator=default_data_collator if fixed else DataCollatorWithPadding(tokenizer),
    )


def recipe_trainer(rows: Dataset, model_name: str, folder: str) -> Trainer:
    tokenizer = load_tokenizer(model_name)
    words = ["--output_dir", folder, "--overwrite_output", "--disable_tqdm", "true"]
    options, settings = parse(RecipeArguments, words, defaults={"per_device_eval_batch_size": 128})
    how = {"tokenizer": tokenizer, "max_length": options.max_length}
    model = BertClsForSequenceClassification.from_encoder(model_name, num_labels=2)
    return Trainer(
        model,
        settings,
        eval_dataset=rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=how),
        data_collator=WindowCollator(tokenizer),
        compute_metrics=make_compute_metrics(model.config),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    if args.way:
        torch.set_num_threads(cores_per_process())
        rows = load_splits(args.dataset_name)["validation"].select_columns(["text", "label", "example_id"])
        with tempfile.TemporaryDirectory() as folder:
            if args.way == "recipe":
                trainer = recipe_trainer(rows, args.model_name_or_path, folder)
            else:
                trainer = stock_trainer(rows, args.model_name_or_path, folder, args.way == "stock script")
            trainer.evaluate()  # warms up
            start = time.perf_counter()
            trainer.evaluate()
            tell(texts=len(rows), seconds=time.perf_counter() - start)
        return
    found = ask_in_turn(__file__, WAYS, args.rounds, option="--way")
    texts = found["recipe"][0]["texts"]
    speed = {way: texts / float(np.median([one["seconds"] for one in turns])) for way, turns in found.items()}
    table = [[way, speed[way], speed["recipe"] / speed[way]] for way in WAYS]
    title = f"{texts} texts, median of {args.rounds} rounds, {cores_per_process()} threads"
    show(title, ["way", "texts/s", "the recipe is x times as fast"], table, args.output)


if __name__ == "__main__":
    main()
