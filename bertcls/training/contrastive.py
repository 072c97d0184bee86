"""A contrastive stage before the head: texts of a class come close, texts of other classes apart."""

from functools import partial

import numpy as np
import torch
import torch.distributed.nn
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from bertcls.data.labels import label_array
from bertcls.modeling import BertClsForSequenceClassification
from bertcls.process import say
from bertcls.together import processes
from bertcls.tokenization import WindowCollator, tokenize_splits
from bertcls.training.callbacks import training_callbacks
from bertcls.training.cpu import FastOnCpu
from bertcls.training.stage import stage
from bertcls.words import tells_words

BATCH = (16, 64)  # texts, over all processes: two of each class, so many at least and at most
TEMPERATURE = 0.1  # as in Khosla et al. (2020)


def supervised_contrastive_loss(
    vectors: torch.Tensor, labels: torch.Tensor, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Each text against the others of a batch, those with its label being right (Khosla et al., 2020, "out").

    Of `vectors` `[batch, hidden]` only the directions count; `labels` are class numbers `[batch]`, or 0 and 1 `[batch,
    num_labels]`: texts with equal sets are alike. Gives the mean over texts that have another one of their label; 0
    where none has.

    >>> same = supervised_contrastive_loss(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
    >>> bool(same < supervised_contrastive_loss(torch.eye(2)[[0, 1, 0, 1]], torch.tensor([0, 0, 1, 1])))
    True
    """
    unit = F.normalize(vectors.float(), dim=-1)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    cosines = (unit @ unit.T / temperature).masked_fill(own, float("-inf"))
    log_shares = cosines - cosines.logsumexp(-1, keepdim=True)  # [batch, batch]
    labels = labels.view(len(labels), -1)
    alike = (labels[:, None] == labels[None]).all(-1) & ~own
    counts = alike.sum(-1)
    losses = -log_shares.masked_fill(~alike, 0.0).sum(-1) / counts.clamp_min(1)
    return losses.sum() / (counts > 0).sum().clamp_min(1)


def balanced_order(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Rows in an order that brings two of every class in turn, so that a text of a batch has another of its label.

    Labels are `[rows]`, or `[rows, num_labels]`, whose sets are the classes. Rows stand in the order several times,
    those of rare classes more often.

    >>> balanced_order(np.array([0, 0, 0, 1, 1]), 8, seed=0).tolist().count(3)
    2
    """
    random = np.random.default_rng(seed)
    classes = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    rows_of = [np.flatnonzero(classes == number) for number in range(classes.max() + 1)]
    waiting: list[list[int]] = [[] for _ in rows_of]
    order: list[int] = []
    while len(order) < size:
        for number in random.permutation(len(rows_of)):
            for _ in range(min(2, len(rows_of[number]))):
                waiting[number] = waiting[number] or random.permutation(rows_of[number]).tolist()
                order.append(waiting[number].pop())
    return np.array(order[:size])


def gathered_loss(outputs, labels: torch.Tensor, num_items_in_batch=None, temperature=TEMPERATURE) -> torch.Tensor:
    """`compute_loss_func` of Trainer: over the texts of all processes, with the gradient of one process alone."""
    vectors = outputs.vectors
    if processes() > 1:
        both = vectors, labels  # gradients flow back through what is gathered
        vectors, labels = (torch.cat(torch.distributed.nn.all_gather(one)) for one in both)
    return supervised_contrastive_loss(vectors, labels, temperature)


class TwoMasks(WindowCollator):
    """Each text twice in a batch, so that dropout makes two vectors of it: contrast without labels (SimCSE).

    `labels` are the texts' numbers, for `gathered_loss` (Gao et al., 2021; the other texts are what to tell it from).
    """

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__([feature for feature in features for _ in range(2)])
        return {"labels": batch.pop("example_ids"), **batch}


def contrastive_stage(
    model: PreTrainedModel,
    dataset: Dataset,
    collator: WindowCollator,
    training_args: TrainingArguments,
    *,
    steps: int,
    learning_rate: float = 5e-5,
) -> int:
    """Trains an encoder of classes so that texts of one label have like vectors, on which the head is fitted later.

    Each text is encoded once a step; the embeddings of words stay, whose gradients and updates cost more time than
    they are worth. Gives the texts that were read in `steps` optimizer steps, with repetitions.
    """
    embeddings = model.encoder.get_input_embeddings().parameters() if tells_words(model) else ()
    head = [parameter for name, parameter in model.named_parameters() if not name.startswith("encoder.")]
    still = [*embeddings, *head]  # several processes would wait for the gradient of the head
    with stage(training_args, still, steps=steps, learning_rate=learning_rate) as args:
        batch = min(max(2 * model.config.num_labels, BATCH[0]), BATCH[1])
        args.per_device_train_batch_size = max(batch // args.world_size, 2)
        args.gradient_accumulation_steps = 1  # the loss of a batch is no sum over parts of it
        args.average_tokens_across_devices = False  # nor over processes
        args.train_sampling_strategy = "sequential"
        args.logging_strategy, args.disable_tqdm = "no", True
        size = steps * args.per_device_train_batch_size * args.world_size
        order = balanced_order(label_array(dataset), size, seed=args.seed)
        say(f"Contrastive stage: {steps} steps of {size // steps} texts.")
        trainer = Trainer(
            model,
            args,
            data_collator=collator,
            train_dataset=dataset.select(order),
            compute_loss_func=gathered_loss,
            callbacks=[FastOnCpu()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return size


def contrastive_pretraining(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    training_args: TrainingArguments,
    *,
    model_name_or_path: str,
    run_dir: str,
    started: float,
    max_length: int,
    cleaning: list[str],
    overwrite_output: bool = False,
) -> dict:
    """Further pretraining by contrast without labels, on the sentences of some texts: nothing to choose a step by.

    Reads the `text` of train with the encoder `model_name_or_path`, and saves it in the folder `encoder` of `run_dir`;
    `started` is in seconds of `time.time()`. Gives the scores of the training.

    Raises:
        ValueError: steps that are gathered from several batches.
    """
    from bertcls.training.small_encoder import finish_encoder, passages_of  # scikit-learn, which --help does without

    if (steps := training_args.gradient_accumulation_steps) > 1:
        raise ValueError(
            f"Found --gradient_accumulation_steps {steps} with --objective contrast; expected 1, since texts are told "
            "apart within a batch. Raise --per_device_train_batch_size."
        )
    sentences = passages_of(DatasetDict(train=splits["train"]), cleaning)["train"]
    sentences = sentences.add_column("example_id", range(len(sentences)))
    tokenized, contract = tokenize_splits(
        DatasetDict(train=sentences), tokenizer, max_length=max_length, truncation="head"
    )
    model = BertClsForSequenceClassification.from_encoder(model_name_or_path, num_labels=1, **contract)
    model.classifier.requires_grad_(False)  # several processes would wait for its gradient
    training_args.eval_strategy, training_args.eval_on_start, training_args.load_best_model_at_end = "no", False, False
    training_args.average_tokens_across_devices, training_args.train_sampling_strategy = False, "group_by_length"
    loss = partial(gathered_loss, temperature=0.05)  # as in Gao et al. (2021)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized["train"],
        processing_class=tokenizer,
        data_collator=TwoMasks(tokenizer),
        compute_loss_func=loss,
        callbacks=training_callbacks(training_args, loss=loss, overwrite_output=overwrite_output),
    )
    results = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    return finish_encoder(trainer, results, run_dir=run_dir, started=started, half=False)
