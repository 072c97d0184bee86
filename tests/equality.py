"""Runs that must be equal, shared by `test_equality.py` and the process it launches."""

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, Trainer, set_seed

from bertcls import BertClsConfig, BertClsForSequenceClassification, RecipeArguments, WindowCollator, tokenize_windows
from bertcls.training.callbacks import LongestBatchFirst
from bertcls.training.distill import DistillationLoss, TaughtCollator
from bertcls.training.launch import parse

TINY = Path(__file__).parent.parent / "recipes" / "sample" / "tiny-bert"


def make_rows(count: int) -> Dataset:
    """Texts of 1 to 40 words, the last ones in several windows."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    texts = ["good film never dull ".split() * 10 for _ in range(count)]
    rows = Dataset.from_dict(
        {
            "text": [" ".join(words[: 1 + 7 * i % 40]) for i, words in enumerate(texts)],
            "label": [int(i % 3 == 0) for i in range(count)],
            "example_id": list(range(1000, 1000 + count)),
        }
    )
    options = {"tokenizer": tokenizer, "max_length": 24}
    return rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=options)


def make_trainer(folder: str, rows: Dataset, words: list[str], *, collator=None, **config) -> Trainer:
    _, training_args = parse(
        RecipeArguments,
        [
            "--output_dir",
            folder,
            "--overwrite_output",
            "--use_cpu",
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
            *words,
        ],
        defaults={"bf16": False},
    )
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    encoder = AutoConfig.from_pretrained(TINY)
    model = BertClsForSequenceClassification(BertClsConfig(encoder=encoder, num_labels=2, **config))
    return Trainer(
        model,
        training_args,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator or WindowCollator(tokenizer),
        callbacks=[LongestBatchFirst()],
    )


def first_step(folder: str, batch: int, accumulation: int, class_weights: list | None) -> dict:
    """Logged loss and update of one SGD step over the same 16 rows, without dropout."""
    words = (
        "--max_steps 1 --optim sgd --learning_rate 1 --lr_scheduler_type constant --logging_steps 1 --max_grad_norm 0"
    )
    words += f" --per_device_train_batch_size {batch} --gradient_accumulation_steps {accumulation}"
    words += " --train_sampling_strategy sequential --bf16 false"
    return update_of(make_trainer(folder, make_rows(16), words.split(), class_weights=class_weights, pooling="mean"))


def update_of(trainer: Trainer) -> dict:
    """Logged loss and update of its one step, without dropout."""
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in trainer.model.encoder.encoder.layer:  # SDPA has its own
        layer.attention.self.dropout.p = 0.0
    start = torch.cat([parameter.detach().flatten().clone() for parameter in trainer.model.parameters()])
    trainer.train()
    end = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return {"loss": trainer.state.log_history[0]["loss"], "update": end - start}


ANSWERS_OF = ([2.0, -1.0], [-3.0, 0.5])  # of a teacher


def make_taught_rows(count: int) -> Dataset:
    """The rows with what a teacher answers, and a label for the first of four and some more."""
    rows = make_rows(count)
    labels = [label if row % 4 == 0 or row > 12 else None for row, label in enumerate(rows["label"])]
    rows = rows.remove_columns("label").add_column("label", labels)
    return rows.add_column("teacher_logits", [ANSWERS_OF[row % 3 == 0] for row in range(count)])


def distilled_step(folder: str, batch: int, accumulation: int) -> dict:
    """As `first_step`, of rows of which some have a label and all have answers."""
    words = "--max_steps 1 --optim sgd --learning_rate 1 --lr_scheduler_type constant --logging_steps 1"
    words += f" --per_device_train_batch_size {batch} --gradient_accumulation_steps {accumulation} --max_grad_norm 0"
    words += " --train_sampling_strategy sequential --bf16 false"
    rows = make_taught_rows(16)
    trainer = make_trainer(folder, rows, words.split(), pooling="mean")
    trainer.data_collator = TaughtCollator(trainer.processing_class, trainer.model.config, trainer.args, rows)
    trainer.compute_loss_func = DistillationLoss(trainer.model, trainer.data_collator.targets, alpha=0.3)
    trainer.remove_callback(LongestBatchFirst)
    trainer.add_callback(LongestBatchFirst(trainer.compute_loss_func))
    return update_of(trainer)


class RecordingCollator(WindowCollator):
    """Keeps the ids of the examples that it was asked for."""

    def __call__(self, features):
        self.seen = getattr(self, "seen", []) + [feature["example_id"] for feature in features]
        return super().__call__(features)


def main(folder: str) -> None:
    """What two processes do; rank 0 writes the answers."""
    result = {}
    for weights in (None, [0.75, 1.5]):
        result[str(weights)] = first_step(f"{folder}/step", 8, 1, weights)
    result["distilled"] = distilled_step(f"{folder}/distilled", 8, 1)

    for pooling in ("pooler", "cls", "mean", "max"):  # a parameter without a gradient would stop the second step
        words = ["--max_steps", "3", "--per_device_train_batch_size", "8"]
        trainer = make_trainer(f"{folder}/pooling", make_rows(48), words, pooling=pooling)
        assert trainer.args.ddp_find_unused_parameters is False
        result[pooling] = trainer.train().global_step

    rows = make_rows(400)
    collator = RecordingCollator(AutoTokenizer.from_pretrained(TINY))
    words = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
    trainer = make_trainer(f"{folder}/epochs", rows, words, collator=collator)
    trainer.remove_callback(LongestBatchFirst)  # its rows are not of an epoch
    collator.seen = []
    trainer.train()
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, collator.seen)
    half = len(gathered[0]) // 2
    result["epochs"] = [
        [i for seen in gathered for i in part(seen)] for part in (lambda s: s[:half], lambda s: s[half:])
    ]
    scored = {}
    trainer.compute_metrics = lambda prediction: scored.update(ids=prediction.label_ids[1].tolist()) or {}
    trainer.evaluate(rows.select(range(37)))  # no multiple of a batch, nor of two
    result["scored"] = scored["ids"]
    checksum = torch.stack([parameter.detach().double().sum() for parameter in trainer.model.parameters()]).sum()
    sums = [torch.zeros_like(checksum) for _ in gathered]
    dist.all_gather(sums, checksum)
    result["checksums"] = [float(value) for value in sums]
    if dist.get_rank() == 0:
        torch.save(result, f"{folder}/result.pt")
    dist.barrier()
    del trainer
    gc.collect()  # as in `staying_together`: a model that is the last to hold the group may hang
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
