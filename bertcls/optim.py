"""Which parameters train, and at which rate."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

# As in Trainer: biases and norms are not decayed.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True)
class EncoderParts:
    """Where an encoder keeps its layers."""

    layers_name: str  # of the list of layers inside the encoder, such as `encoder.layer`
    num_layers: int
    last_norms: tuple[str, ...]  # beside the list, after the last layer (Megatron-BERT, XLM-RoBERTa-XL)

    def layer(self, name: str) -> int:
        """Number of the layer that a parameter of the encoder belongs to, from 0 at the bottom.

        -1 for the embeddings and what all layers share (DeBERTa's relative positions), `num_layers` for what comes
        after the last layer: a pooler or a norm.
        """
        prefix = self.layers_name + "."
        if name.startswith(prefix):
            return int(name.removeprefix(prefix).split(".")[0])
        parent = self.layers_name.rpartition(".")[0]
        beside = parent and name.startswith(parent + ".") and name.rpartition(".")[0] not in self.last_norms
        return -1 if "embed" in name or beside else self.num_layers


def encoder_parts(encoder: nn.Module) -> EncoderParts:
    """Finds the list of layers by its length, whatever its name.

    Raises:
        ValueError: the encoder has none, as where all layers share their weights (ALBERT).
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == encoder.config.num_hidden_layers:
            parent = name.rpartition(".")[0]
            beside = encoder.get_submodule(parent)
            norms = [child for child, part in beside.named_children() if "Norm" in type(part).__name__]
            norms = [] if hasattr(beside, "rel_embeddings") else norms  # DeBERTa, whose norm is theirs
            return EncoderParts(name, len(module), tuple(f"{parent}.{norm}".lstrip(".") for norm in norms))
    raise ValueError(
        f"{type(encoder).__name__} has no list of {encoder.config.num_hidden_layers} layers, so its layers cannot be "
        "told apart; leave out --freeze_layers and --layer_decay."
    )


def freeze(model: PreTrainedModel, *, freeze_encoder: bool = False, freeze_layers: int = 0) -> None:
    """Freezes the whole encoder, or its embeddings and so many layers, counted from the bottom.

    Raises:
        ValueError: more layers than the encoder has.
    """
    if freeze_layers:
        parts = encoder_parts(model.encoder)
        if not 0 < freeze_layers <= parts.num_layers:
            raise ValueError(
                f"Found --freeze_layers {freeze_layers}; expected 0 to {parts.num_layers}, the encoder's layers."
            )
    for name, parameter in model.encoder.named_parameters():
        if freeze_encoder or (freeze_layers and parts.layer(name) < freeze_layers):
            parameter.requires_grad = False


def _depth(name: str, parts: EncoderParts | None) -> int:
    """Steps of a model's parameter below the head, which has 0: 1 for the top layer and the pooler, the number of
    layers + 1 for the embeddings; 1 for all of an encoder whose layers are as one."""
    if not name.startswith("encoder."):
        return 0
    return 1 if parts is None else max(parts.num_layers - parts.layer(name.removeprefix("encoder.")), 1)


def layerwise_parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    layer_decay: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
) -> list[dict]:
    """Optimizer groups in which lower layers learn more slowly (Howard and Ruder, 2018; Clark et al., 2020).

    The head has `learning_rate`, or `head_learning_rate`; the i-th layer from the top, and the pooler with i = 1,
    `learning_rate * layer_decay**i`; the embeddings `learning_rate * layer_decay**(layers + 1)`. Biases and norms have
    no weight decay. The head comes first: Trainer logs the rate of the first group. Without a decay the encoder's
    layers are not told apart, and may share their weights (ALBERT).

    The groups have `params`, `lr`, `weight_decay` and `depth` (without a decay 1 for all of the encoder); every
    trainable parameter is in exactly one.

    Raises:
        ValueError: `layer_decay` outside (0, 1], or below 1 where layers share their weights.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"Found --layer_decay {layer_decay}; expected more than 0 and at most 1.")
    parts = encoder_parts(model.encoder) if layer_decay < 1 else None
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = _depth(name.replace("_fsdp_wrapped_module.", ""), parts)
        own_rate = depth == 0 and head_learning_rate is not None
        rate = head_learning_rate if own_rate else learning_rate * layer_decay**depth
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if name in decayed else 0.0, "depth": depth}
        groups.setdefault((depth, name not in decayed), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


class LayerwiseOptimizer:
    """A factory for `Trainer(optimizer_cls_and_kwargs=(LayerwiseOptimizer, {...}))`: the optimizer that `--optim`
    names, its betas and epsilon, over the groups above of the model as Trainer trains it (wrapped under FSDP)."""

    def __call__(self, model: nn.Module, *, args: TrainingArguments, **rates) -> torch.optim.Optimizer:
        optimizer_cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        rates |= {"learning_rate": args.learning_rate, "weight_decay": args.weight_decay}
        return optimizer_cls(layerwise_parameter_groups(model, **rates), **kwargs)


def layerwise_optimizer(
    args: TrainingArguments, layer_decay: float, head_learning_rate: float | None
) -> tuple[type, dict] | None:
    """What Trainer takes as `optimizer_cls_and_kwargs`; `None`, its own optimizer, where all rates are the same."""
    if layer_decay == 1.0 and head_learning_rate is None:
        return None
    return LayerwiseOptimizer, {"args": args, "layer_decay": layer_decay, "head_learning_rate": head_learning_rate}


def check_rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Checks that an optimizer trains what it should, whoever made it, and describes it in a table: depth below the
    head (of a model with an `encoder`), part, first rate, weight decay and number of parameters.

    Raises:
        ValueError: a trainable parameter that no group or more than one holds, or a layer with a higher rate than one
            above it.
    """
    held = defaultdict(list)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held[id(parameter)].append(group)
    try:
        parts = encoder_parts(model.encoder)
    except (AttributeError, ValueError):  # no encoder, or one whose layers share their weights
        parts = None
    rows: Counter[tuple[int, float, float]] = Counter()  # depth, rate and weight decay: parameters
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if len(groups := held[id(parameter)]) != 1:
            raise ValueError(
                f"The optimizer holds the parameter {name} {len(groups)} times; expected every trainable parameter in "
                "exactly one group. Correct the groups, or freeze it."
            )
        rate = groups[0].get("initial_lr", groups[0]["lr"])
        rows[_depth(name, parts), rate, groups[0].get("weight_decay", 0.0)] += parameter.numel()
    ordered = sorted(rows, key=lambda row: (row[0], -row[2]))
    inside = [(depth, rate) for depth, rate, _ in ordered if depth and parts]
    for (above, higher), (below, rate) in zip(inside, inside[1:]):
        if rate > higher:
            raise ValueError(
                f"Found the learning rate {rate:.2g} {below} steps below the head and {higher:.2g} at {above}; "
                "expected rates that do not rise towards the embeddings. Turn the decay round."
            )
    lines = ["depth  part          rate      weight decay  parameters"]
    for depth, rate, decay in ordered:
        part = "encoder" if depth else "head"
        if depth and parts:
            part = "embeddings" if depth > parts.num_layers else f"layer {parts.num_layers - depth}"
        lines.append(f"{depth:5d}  {part:12s}  {rate:.2e}  {decay:12g}  {rows[depth, rate, decay]:10,d}")
    return "\n".join(lines)
