"""Distillation: a small student learns to answer as a large teacher does, from labelled and unlabelled texts.

Teacher: a folder that a recipe saved, or a stock sequence classifier, trained on the same labels. It answers each text
once, before training, and datasets keeps its answers. Student: an encoder by its name, or layers of the teacher's own.
Texts without a label teach, too: rows whose label is empty, and those of `--unlabelled_file`.
Run:  accelerate launch --quiet recipes/distill.py --teacher runs/sst2 --student_layers 0 2 4
      python recipes/distill.py --teacher runs/sst2 --model_name_or_path small --unlabelled_file more.txt
      accelerate launch --quiet recipes/distill.py --sample (no network; its teacher is made first, by
      python recipes/sst2_finetune.py --sample --from_scratch --output_dir runs/sample-teacher)
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # idle threads soon sleep: four times as fast on a busy machine

from transformers import Trainer, TrainingArguments, set_seed

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    arrange_splits,
    audit_run,
    finish_run,
    label_config,
    layerwise_optimizer,
    load_splits,
    load_tokenizer,
    make_compute_metrics,
    prepare_training,
    run_recipe,
    tokenize_splits,
    training_callbacks,
)
from bertcls.training.distill import DistillationLoss, TaughtCollator, take_layers
from bertcls.training.students import Comparison
from bertcls.training.teacher import load_teacher, teach

HERE = Path(__file__).parent
DEFAULTS = dict(
    dataset_name="stanfordnlp/sst2",  # Hub id or folder
    language="en",  # stands in the model card
    phrases=True,  # training rows are cut out of sentences: hold out whole ones, as the teacher did
    max_length=128,  # tokens; the teacher reads texts by its own contract
    learning_rate=1e-4,  # small encoders bear more than 5e-5
    per_device_train_batch_size=32,
    warmup_steps=0.06,  # share of all steps
    weight_decay=0.01,
    cleaning=["strip_tags", "unescape_entities", "collapse_blanks"],  # steps of bertcls.text, stored with the model
    probes=str(HERE / "probes.txt"),  # texts that the trained model is asked; add yours
)
SAMPLE = dict(
    dataset_name=str(HERE / "sample" / "reviews"),
    teacher=str(Path("runs") / "sample-teacher"),
    student_layers=[0],
    cpu_threads=1,  # a tiny model has nothing to share
    learning_rate=1e-3,
    num_train_epochs=8,
)


@dataclass
class Arguments(RecipeArguments):
    teacher: str | None = field(default=None, metadata={"help": "Folder of a run, or a stock sequence classifier."})
    student_layers: list[int] = field(
        default_factory=list, metadata={"help": "The student begins as these layers of the teacher, from 0 on."}
    )
    unlabelled_file: str | None = field(
        default=None, metadata={"help": "More texts: file, folder or Hub id (of a data set its split unsupervised)."}
    )
    temperature: float = field(default=2.0, metadata={"help": "Softens both probabilities in the loss."})
    alpha: float = field(default=0.1, metadata={"help": "Share of the labels in the loss; the rest is the teacher's."})
    match_vectors: Literal["none", "mse", "cosine"] = field(
        default="none", metadata={"help": "Learn the teacher's vectors of texts, too, by this distance."}
    )
    plain_run: str = field(
        default="auto", metadata={"help": "The same student on the labels alone: auto makes it; a run; or none."}
    )
    labels_alone: bool = field(init=False, default=False)  # of that run

    def check(self) -> None:
        super().check()
        if self.teacher is None or bool(self.student_layers) == bool(self.model_name_or_path):
            found = "no --teacher" if self.teacher is None else "both or none of --student_layers --model_name_or_path"
            raise ValueError(f"Found {found}; expected a teacher, and one of these for the student. Give them.")
        if not (0 < self.temperature < 1e3 and 0 <= self.alpha < 1):
            found = f"--temperature {self.temperature:g} and --alpha {self.alpha:g}"
            raise ValueError(f"Found {found}; expected more than 0, and from 0 to below 1. Correct it.")
        layers = ["from_scratch", "classifier_hidden_size", "pooling", "head_init"] * bool(self.student_layers)
        for name in ("fold", "contrastive_steps", *layers):
            if getattr(self, name) not in (None, False, "auto"):
                raise ValueError(f"Found --{name}; expected it left out, since a student has a teacher. Leave it out.")
        self.model_name_or_path = self.model_name_or_path or self.teacher

    def check_training(self, training_args: TrainingArguments) -> None:
        super().check_training(training_args)
        if training_args.label_smoothing_factor:
            raise ValueError("Found --label_smoothing_factor; expected it left out: the teacher's answers are smooth.")


def main(args: Arguments, training_args: TrainingArguments) -> dict:
    comparison = Comparison(main, args, training_args)

    # 1. Load, split and audit; the teacher knows the labels of the data by their names
    splits = load_splits(args.dataset_name, keep_unlabelled=True, **args.of(load_splits))
    unlabelled = splits.pop("unlabelled", None)
    splits, reported_split = arrange_splits(splits, **args.of(arrange_splits))
    teacher = load_teacher(args.teacher, splits["train"], **args.of(load_teacher))
    tokenizer = load_tokenizer(args.model_name_or_path)
    splits = audit_run(splits, tokenizer=tokenizer, seed=training_args.seed, **args.of(audit_run))

    # 2. The teacher answers, from raw text; clean and tokenize; both in batched, cached maps
    taught = splits if args.labels_alone else teach(splits, unlabelled, teacher, **args.of(teach))
    tokenized, contract = tokenize_splits(taught, tokenizer, **args.of(tokenize_splits))

    # 3. The student, and what it is off its teacher and the labels
    set_seed(training_args.seed)
    model = BertClsForSequenceClassification.from_encoder(
        args.model_name_or_path,
        **label_config(splits["train"], class_weights=args.class_weights),
        **args.of(BertClsForSequenceClassification.from_encoder),
        **contract,
    )
    model = take_layers(model, teacher, args.student_layers) if args.student_layers else model
    collator = TaughtCollator(tokenizer, model.config, training_args, tokenized["train"])
    own = {"head_init": "random"} if args.student_layers else {}  # layers come with theirs
    own |= {} if args.labels_alone and not args.student_layers else {"contrastive_steps": 0}
    prepare_training(model, tokenized, collator, training_args, **args.of(prepare_training) | own)
    loss = DistillationLoss(model, collator.targets, **args.of(DistillationLoss))

    # 4. The Trainer; the best model by validation is loaded at the end
    settings = args.of(training_callbacks) | args.of(DistillationLoss)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized.get("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=make_compute_metrics(model.config, training_args),
        compute_loss_func=loss,
        callbacks=training_callbacks(training_args, loss=loss, teacher=teacher.digest, **settings),
        optimizer_cls_and_kwargs=layerwise_optimizer(training_args, **args.of(layerwise_optimizer)),
    )

    # 5. Train and evaluate; then the same student on the labels alone
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    results |= trainer.evaluate() if "validation" in tokenized else {}
    loss.drop_projection()  # of vectors of another width, which the student answers without
    comparison.train_on_labels_alone()

    # 6. Calibrate, save, load afresh, score the reported rows, compare, report
    beside = comparison.beside(teacher, tokenized["train"])
    return finish_run(trainer, splits, results, reported_split=reported_split, beside=beside, **args.of(finish_run))


if __name__ == "__main__":
    run_recipe(main, Arguments, defaults=DEFAULTS, sample=SAMPLE, description=__doc__)
