"""Faster training without an accelerator, with the same result: dropout and attention as a CPU likes them."""

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback


class CpuDropout(nn.Dropout):
    """Dropout that draws 16 bits a value, from torch's global generator.

    torch's own draws a number of 32 bits a value, one after the other, which takes a tenth of a training step of short
    texts. The share dropped is `p` rounded to 1/65536, and what is kept is scaled by that share.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16):
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: input.numel()].view(input.shape) >= dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - dropped))


class FastOnCpu(TrainerCallback):
    """While a model trains on a CPU: `CpuDropout` for dropout, and plain attention where attention has dropout.

    torch has no fused attention with dropout on a CPU, and what SDPA does in its place is slower than plain products.
    Without dropout of attention weights SDPA stays. (`benchmarks/train_throughput.py` measures both.)
    """

    def __init__(self):
        self.attention: str | None = None  # what the model had

    def on_train_begin(self, args, state, control, model: PreTrainedModel = None, **kwargs):
        if args.device.type != "cpu":
            return
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = CpuDropout
        encoder = getattr(model.config, "encoder", model.config)
        dropout = getattr(encoder, "attention_probs_dropout_prob", getattr(encoder, "attention_dropout", 0))
        self.attention = self.attention or encoder._attn_implementation  # auto_find_batch_size begins several times
        if dropout and self.attention == "sdpa":
            model.set_attn_implementation("eager")

    def on_train_end(self, args, state, control, model: PreTrainedModel = None, **kwargs):
        if args.device.type != "cpu":
            return
        for module in model.modules():
            if type(module) is CpuDropout:
                module.__class__ = nn.Dropout
        model.set_attn_implementation(self.attention)
