"""Distillation: a student that may begin as layers of its teacher, what stands in its batches, and its loss."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from bertcls.modeling import MULTI_LABEL, REGRESSION, BertClsConfig, BertClsForSequenceClassification
from bertcls.optim import encoder_parts
from bertcls.tokenization import WindowCollator
from bertcls.training.masking import IGNORED
from bertcls.training.teacher import ANSWERS, VECTOR, Teacher


def take_layers(
    model: BertClsForSequenceClassification, teacher: Teacher, layers: list[int]
) -> BertClsForSequenceClassification:
    """A student with the embeddings and some layers of a model, and, of one of ours, the teacher's pooling and head.

    Args:
        model: made from the teacher's encoder, whole, for the labels of the data.
        layers: their numbers, as `load_teacher` checks them.

    Raises:
        ValueError: a layer that cannot stand in the place of another.
    """
    parts, config, head = encoder_parts(model.encoder), copy.deepcopy(model.config), teacher.classifier.model
    for name, value in config.encoder.to_dict().items():  # such as the kinds of attention of ModernBERT
        if isinstance(value, list) and len(value) == parts.num_layers:
            setattr(config.encoder, name, [value[number] for number in layers])
    config.encoder.num_hidden_layers = len(layers)
    state, prefix = {}, f"encoder.{parts.layers_name}."
    for name, tensor in model.state_dict().items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            state[name] = tensor
        elif int(number) in layers:
            state[f"{prefix}{layers.index(int(number))}.{rest}"] = tensor
    if isinstance(head, BertClsForSequenceClassification):
        for name in ("pooling", "normalize", "classifier_hidden_size", "label_mean", "label_scale"):
            setattr(config, name, getattr(head.config, name))
        weights = {name: tensor for name, tensor in head.state_dict().items() if name.startswith("dense.")}
        rows = {f"classifier.{name}": tensor[teacher.columns] for name, tensor in head.classifier.state_dict().items()}
        state |= weights | rows
    student = BertClsForSequenceClassification(config)
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"Found --student_layers {' '.join(map(str, layers))} of {teacher.name}, which cannot stand there "
            f"({str(error).splitlines()[-1].strip()}); expected layers of one kind. Begin with 0."
        ) from error
    return student


@dataclass(frozen=True)
class Targets:
    """What stands in the `labels` of a taught batch, `[batch, width]` floats: of each row its own label, what the
    teacher answers, its vector, and one place that is `IGNORED` in a row without a label.

    Trainer counts the places of a step that are not `IGNORED`, over all micro-batches and processes, in one number.
    Rows are as wide as makes that number tell both counts: a row counts for more than all labels of a step.

    Args:
        own: places of a label: 1, or with several labels one for each.
        answers, vectors: places of what the teacher answers.
        rows: of an optimizer step, at most.
    """

    own: int
    answers: int
    vectors: int
    rows: int

    @property
    def width(self) -> int:
        return max(self.own + self.answers + self.vectors, 2 * self.rows + 2) + 1

    def pack(
        self, own: torch.Tensor, labelled: torch.Tensor, answers: torch.Tensor, *vectors: torch.Tensor
    ) -> torch.Tensor:
        """`[batch, own]`, `[batch]`, `[batch, answers]` and where they are matched `[batch, vectors]` in one."""
        found, values = torch.zeros(len(own), self.width), torch.cat([own, answers, *vectors], -1)
        found[:, : values.shape[1]] = values.masked_fill(values == IGNORED, IGNORED + 1e-4)  # no mark
        found[:, -1].masked_fill_(~labelled, IGNORED)
        return found

    def unpack(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `pack` was given."""
        sizes = [self.own, self.answers, self.vectors]
        own, answers, vectors = labels[:, : sum(sizes)].split(sizes, -1)
        return own, labels[:, -1] != IGNORED, answers, vectors

    def counts(self, items: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, and labelled rows, of a step in which so many places are not `IGNORED`.

        >>> targets = Targets(own=1, answers=2, vectors=0, rows=8)
        >>> [int(count) for count in targets.counts(5 * (targets.width - 1) + 3)]
        [5, 3]
        """
        items, each = torch.as_tensor(items).round().long(), self.width - 1
        rows = (4 * items + each) // (4 * each)  # all labels of a step are less than half a row; Trainer may round
        return rows, items - rows * each


class TaughtCollator(WindowCollator):
    """`WindowCollator`, whose `labels` of rows with answers of a teacher are `Targets`.

    `args` say how many rows a step has; the tokenized rows `train` have a `teacher_vector` where vectors are matched.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BertClsConfig, args: TrainingArguments, train: Dataset
    ):
        super().__init__(tokenizer, config)
        vectors = len(train[0][VECTOR]) if VECTOR in train.column_names else 0
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.targets = Targets(self.num_labels or 1, config.num_labels, vectors, rows)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        if ANSWERS not in features[0]:
            return super().__call__(features)
        labelled = torch.tensor([feature["label"] is not None for feature in features])
        none = 0 if self.num_labels is None else []  # of a row without a label, which nothing reads
        filled = [{**feature, "label": none if feature["label"] is None else feature["label"]} for feature in features]
        batch = super().__call__(filled)
        own = batch["labels"].float().view(len(features), -1)
        names = [name for name in (ANSWERS, VECTOR) if name in features[0]]
        taught = [torch.tensor([feature[name] for feature in features], dtype=torch.float32) for name in names]
        return batch | {"labels": self.targets.pack(own, labelled, *taught)}


class DistillationLoss:
    """`compute_loss_func` of Trainer: what the student's answers are off the teacher's, and off the labels there are.

    `(1 - alpha) * T² * soft + alpha * hard` (Hinton et al., 2015): `soft` is the cross-entropy to the teacher's
    probabilities, both softened by T, less the least that it can be; of several labels that of each decision; of
    numbers the squared error in units of the head. `hard` is the loss of the model. Each is a mean over its own rows
    of the whole optimizer step. Rows without answers have the loss of the model alone.

    Args:
        model: the student, which gets a `projection` where the vectors have another width.
        targets: of the collator.
        temperature: T.
        alpha: share of the labels' loss.
        match_vectors: `mse` or `cosine` add how far the vectors of texts are from the teacher's; `none`.
    """

    def __init__(
        self,
        model: BertClsForSequenceClassification,
        targets: Targets,
        *,
        temperature: float = 2.0,
        alpha: float = 0.1,
        match_vectors: str = "none",
    ):
        self.model, self.targets = model, targets
        self.temperature, self.alpha, self.match_vectors = temperature, alpha, match_vectors
        if targets.vectors not in (0, width := model.config.hidden_size):
            model.projection = nn.Linear(width, targets.vectors)

    def drop_projection(self) -> None:
        """Takes it off the student, which answers without it."""
        if hasattr(self.model, "projection"):
            del self.model.projection

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
        logits = outputs["logits"].float()
        if labels.dim() < 2 or labels.shape[1] != self.targets.width:
            losses = self.model.losses(logits, labels)
            return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)
        own, labelled, answers, vectors = self.targets.unpack(labels)
        items = labels.ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        rows, labelled_rows = (count.to(logits) for count in self.targets.counts(items))
        loss = (1 - self.alpha) * self._off_teacher(logits, answers).sum() / rows
        if self.alpha:
            kind = self.model.config.problem_type
            own = own if kind == MULTI_LABEL else own[:, 0] if kind == REGRESSION else own[:, 0].long()
            losses = self.model.losses(logits, own).view(len(own), -1).mean(-1)
            loss = loss + self.alpha * (losses * labelled).sum() / labelled_rows.clamp_min(1)
        if self.match_vectors != "none":
            found = outputs["vectors"].float()
            found = self.model.projection(found) if hasattr(self.model, "projection") else found
            if self.match_vectors == "mse":
                losses = F.mse_loss(found, vectors, reduction="none").mean(-1)
            else:
                losses = 1 - F.cosine_similarity(found, vectors)
            loss = loss + losses.sum() / rows
        return loss

    def _off_teacher(self, logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """`[batch]`, of logits `[batch, num_labels]`."""
        config, power = self.model.config, self.temperature**2
        if config.problem_type == REGRESSION:
            return ((logits - answers) / config.label_scale).square().mean(-1)
        logits, answers = logits / self.temperature, answers / self.temperature
        if config.problem_type == MULTI_LABEL:
            soft = answers.sigmoid()
            found, least = (
                F.binary_cross_entropy_with_logits(values, soft, reduction="none") for values in (logits, answers)
            )
            return power * (found - least).mean(-1)
        log_soft = answers.log_softmax(-1)
        return power * F.kl_div(logits.log_softmax(-1), log_soft, reduction="none", log_target=True).sum(-1)
