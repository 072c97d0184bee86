"""Adapters: small matrices beside the encoder's that train in their place, merged into them when training ends."""

import os

from torch import nn
from transformers import TrainerCallback
from transformers.utils import is_peft_available

from bertcls.arguments import RunArguments, TextArguments
from bertcls.process import say

CONTRASTIVE_RATE = 1e-3  # in the contrastive stage, where it was not measured
ALPHA = 16  # divided by the rank it scales what an adapter adds, so that one rate fits all ranks


def check_adapters(args: TextArguments, training_args: RunArguments) -> None:
    """Refuses `--lora_rank` where it cannot work, before anything is read or written.

    Raises:
        ValueError: what was found and expected.
    """
    rank, sharded = args.lora_rank, {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & {*os.environ}
    if rank is None:
        return
    if rank < 1:
        raise ValueError(f"Found --lora_rank {rank}; expected 1 or more, such as 8. Raise it, or leave it out.")
    for name, why in (("freeze_encoder", "change the encoder"), ("from_scratch", "need one that has learnt")):
        if getattr(args, name, False):
            raise ValueError(
                f"Found --lora_rank with --{name}; expected one of them, since adapters {why}. Leave one out."
            )
    if sharded or training_args.fsdp or training_args.deepspeed:
        raise ValueError(
            "Found --lora_rank under FSDP or DeepSpeed; expected whole weights in each process, into which adapters "
            "are merged. Leave one out."
        )
    if not is_peft_available():
        raise ValueError("Found --lora_rank, but no peft, which makes adapters. Install it: pip install peft")


def add_adapters(encoder: nn.Module, rank: int) -> int:
    """Freezes an encoder and puts a low-rank adapter beside each of its linear matrices (LoRA, Hu et al., 2021).

    `y = x W.T + b` becomes `y = x W.T + b + ALPHA / rank * (x A.T) B.T`, with `A` `[rank, in]` random, `B`
    `[out, rank]` zero: the encoder starts as it was. Matrices that are frozen already get none.
    The encoder, of any family, is changed in place and keeps its class. Gives the number of matrices with an adapter.

    Raises:
        ValueError: a rank above the width of a matrix, or no matrix that could have one.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes a second to import

    linear = ((name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Linear))
    found = {name: module for name, module in linear if module.weight.requires_grad}
    if not found:
        raise ValueError(
            f"Found --lora_rank {rank}, but no linear matrix of the {type(encoder).__name__} that trains; expected "
            "one, for an adapter to be beside it. Leave it out, or freeze fewer layers."
        )
    width = min(min(module.in_features, module.out_features) for module in found.values())
    if rank > width:
        raise ValueError(
            f"Found --lora_rank {rank}; expected 1 to {width}, the least width of the encoder's matrices, such as 8. "
            "Lower it."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(found)), encoder)
    say(f"Adapters of rank {rank} on {len(found)} matrices of the encoder, which is frozen itself.")
    return len(found)


def merge_adapters(model: nn.Module) -> None:
    """Adds the product of each adapter to its matrix and takes the adapters away, in place.

    The answers stay the same up to rounding, and the modules and names of the weights are again those of an encoder
    that never had any. A model without adapters stays as it is.
    """
    adapted = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        module.merge()
        model.set_submodule(name, module.get_base_layer())
    for module in model.modules():
        vars(module).pop("peft_config", None)


class MergeAdapters(TrainerCallback):
    """Merges adapters when training has ended and the best model is loaded: what is scored and saved has none.

    Checkpoints hold them beside the encoder, so that a run can go on.
    """

    def on_train_end(self, args, state, control, model=None, **kwargs):
        merge_adapters(model)
