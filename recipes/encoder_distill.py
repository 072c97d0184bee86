"""A small encoder of your own: it learns to give the vectors of a large one, on unlabelled texts.

Data: any texts without labels; here the 50,000 unlabelled reviews of the Large Movie Review Dataset, cut into their
sentences, and every tenth review whole. The large encoder answers once; no labels, no downloads beside it.
Run:  accelerate launch --quiet recipes/encoder_distill.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2
      accelerate launch --quiet recipes/encoder_distill.py --train_file mine.txt --layers 4 --hidden_size 256
      accelerate launch --quiet recipes/encoder_distill.py --sample (no network, 20 s)
      accelerate launch --quiet recipes/sst2_finetune.py --model_name_or_path runs/.../encoder (then fine-tune it)
Score: benchmarks/README.md, "A small encoder".

To use it for texts of yours, copy this file and edit the block below; every value is also an option.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # idle threads soon sleep: four times as fast on a busy machine

from datasets import DatasetDict
from transformers import Trainer, TrainingArguments, set_seed

from bertcls import (
    BertClsForSequenceClassification,
    load_splits,
    load_tokenizer,
    run_recipe,
    tokenize_splits,
    training_callbacks,
)
from bertcls.arguments import TextArguments
from bertcls.data.splits import draw_rows, hold_out
from bertcls.training.small_encoder import (
    MeanCosine,
    TeacherVectors,
    TokenCollator,
    check_teacher,
    finish_encoder,
    most_frequent_pieces,
    passages_of,
    small_encoder,
    student_of,
    vector_loss,
)

HERE = Path(__file__).parent
DEFAULTS = dict(
    dataset_name="stanfordnlp/imdb",  # Hub id, file or folder
    model_name_or_path="sentence-transformers/all-MiniLM-L6-v2",  # the teacher
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],  # IMDB is full of <br />
    max_length=256,  # tokens of a passage that teacher and student read
    learning_rate=2e-3,
    num_train_epochs=8,
    per_device_train_batch_size=256,
    per_device_eval_batch_size=256,
    lr_scheduler_type="cosine",
    warmup_steps=0.03,  # share of all steps
    weight_decay=0.01,
    early_stopping_patience=0,
    metric_for_best_model="cosine",
)
SAMPLE = dict(
    dataset_name=str(HERE / "sample" / "reviews"),
    model_name_or_path=str(HERE / "sample" / "encoder"),
    cpu_threads=1,  # a tiny model has nothing to share
    max_length=64,
    vocab_size=600,
    hidden_size=32,
    num_train_epochs=3,
    per_device_train_batch_size=32,
)


@dataclass
class Arguments(TextArguments):
    train_split: str | None = field(
        default=None, metadata={"help": "Split with the texts to train on; none: unsupervised, or else train."}
    )
    validation_samples: int = field(default=500, metadata={"help": "Texts held out of train (at most a tenth)."})
    vocab_size: int = field(default=8000, metadata={"help": "Of the teacher's WordPieces, the most frequent."})
    layers: int = field(default=3, metadata={"help": "Of the small encoder."})
    hidden_size: int = field(default=192, metadata={"help": "Its width; attention heads are 32 wide."})
    intermediate_size: int | None = field(default=None, metadata={"help": "None: four times the width."})

    def check(self) -> None:
        super().check()
        if self.layers < 1 or self.hidden_size < 32 or self.hidden_size % 32:
            found = f"--layers {self.layers} --hidden_size {self.hidden_size}"
            raise ValueError(f"Found {found}; expected 1 layer or more, and a width divisible by 32.")
        if self.validation_samples < 1:
            raise ValueError(f"Found --validation_samples {self.validation_samples}; expected at least 1.")

    def check_training(self, training_args: TrainingArguments) -> None:
        super().check_training(training_args)
        found = {"push_to_hub": self.hub, "label_smoothing_factor": training_args.label_smoothing_factor}
        found |= {"lora_rank": self.lora_rank, "from_scratch": self.from_scratch}
        found["attention_dropout"] = self.attention_dropout is not None
        if wrong := [name for name, given in found.items() if given]:
            raise ValueError(f"Found --{wrong[0]}; expected it left out, since a new encoder has no use for it.")


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    set_seed(training_args.seed)
    training_args.label_names, training_args.batch_eval_metrics = ["labels"], True

    # 1. Load and split, cut into passages: a column text
    splits = load_splits(args.dataset_name, labelled=False, **args.of(load_splits))
    if "validation" not in splits:
        rows = min(args.validation_samples, max(len(splits["train"]) // 10, 1))
        splits["train"], splits["validation"] = hold_out(splits["train"], rows=rows)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed=training_args.seed)
    splits = passages_of(DatasetDict({name: splits[name] for name in ("train", "validation")}), args.cleaning)

    # 2. The small vocabulary, and an encoder of it that begins with the teacher's embeddings
    large = load_tokenizer(args.model_name_or_path)
    teacher = BertClsForSequenceClassification.from_encoder(args.model_name_or_path, num_labels=1)
    teacher = check_teacher(teacher, large, args.hidden_size)
    pieces = most_frequent_pieces(large, splits["train"], args.vocab_size)
    sizes = {"hidden_size": args.hidden_size, "num_hidden_layers": args.layers}
    sizes |= {"num_attention_heads": args.hidden_size // 32}
    sizes |= {"intermediate_size": args.intermediate_size or 4 * args.hidden_size}
    encoder, tokenizer = small_encoder(teacher, large, pieces, **sizes)

    # 3. Tokenize, and ask the teacher, in a batched, cached map; a head takes the student's vectors to the teacher's
    tokenized, contract = tokenize_splits(splits, tokenizer, max_length=args.max_length, truncation="head")
    answers = TeacherVectors(teacher, large.convert_tokens_to_ids(pieces), training_args)
    tokenized = answers.add_to(tokenized)
    model = student_of(encoder, answers, **contract)

    # 4. The Trainer
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        processing_class=tokenizer,
        data_collator=TokenCollator(tokenizer, answers.width),
        compute_loss_func=vector_loss,
        compute_metrics=MeanCosine(),
        callbacks=training_callbacks(training_args, loss=vector_loss, **args.of(training_callbacks)),
    )

    # 5. Train and evaluate
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= trainer.evaluate()

    # 6. Save the encoder alone, in 16 bits
    return finish_encoder(trainer, results, **args.of(finish_encoder))


if __name__ == "__main__":
    run_recipe(main, Arguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__)
