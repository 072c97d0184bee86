"""Faster training without an accelerator, with the same result: dropout and attention as a CPU likes them."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel, TrainerCallback
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from bertcls.process import keep_freed

BF16_TOKENS = 256  # longer texts are for SDPA in bf16, too


def drop(values: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout that draws 16 bits a value, from torch's global generator.

    torch's own draws a number of 32 bits a value, one after the other, which takes a tenth of a training step of short
    texts. The share `p` that becomes 0 is rounded to 1/65536, and what is kept is scaled by the rounded share; what
    would be rounded to 0 or to 1 is left to torch.
    """
    dropped = round(p * 2**16)
    if dropped in (0, 2**16):
        return F.dropout(values, p)
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: values.numel()].view(values.shape) >= dropped - 2**15
    return values * kept.to(values.dtype).mul_(2**16 / (2**16 - dropped))


class CpuDropout(nn.Dropout):
    """`nn.Dropout` by `drop`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return drop(input, self.p) if self.training else input


def attention_with_dropout(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: plain products where these are faster, else SDPA.

    torch has no fused attention with dropout on a CPU, and what SDPA does in its place is slower than plain products.
    Nor is its gradient in bf16 one of the fast products in bf16, by which plain ones are up to six times as fast up to
    `BF16_TOKENS`. SDPA also computes what has a `position_bias`, or other keys than queries.

    `query`, `key` and `value` are `[windows, heads, seq_len, head_size]`; the mask is added to the scores, 0 where a
    token is read, `[windows, 1, seq_len, seq_len]`. Gives `[windows, seq_len, heads, head_size]`, and no weights.
    """
    short = query.dtype == torch.bfloat16 and query.requires_grad and query.shape[2] <= BF16_TOKENS and has_bf16()
    if not (dropout or short) or kwargs.get("position_bias") is not None or key.shape != query.shape:
        kwargs |= {"dropout": dropout, "scaling": scaling, "is_causal": False}  # the mask says all
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1).to(value.dtype)
    weights = drop(weights, dropout) if dropout else weights
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def has_bf16() -> bool:
    """Whether the processor multiplies matrices of bf16, by AMX or without."""
    return torch.cpu._is_avx512_bf16_supported()


_ATTENTION = "attention_with_dropout"
AttentionInterface.register(_ATTENTION, attention_with_dropout)
AttentionMaskInterface.register(_ATTENTION, eager_mask)


class FastOnCpu(TrainerCallback):
    """While a model trains on a CPU: `CpuDropout` for dropout, and `attention_with_dropout` where that is faster: with
    dropout in it, or in bf16 where the processor multiplies matrices of it (`benchmarks/train_throughput.py`)."""

    def __init__(self):
        self.attention: str | None = None  # what the model had

    def on_train_begin(self, args, state, control, model: PreTrainedModel = None, **kwargs):
        if args.device.type != "cpu":
            return
        keep_freed(2**23 if args.gradient_checkpointing else 2**30)  # such a run has little memory
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = CpuDropout
        encoder = getattr(model.config, "encoder", model.config)
        dropout = getattr(encoder, "attention_probs_dropout_prob", getattr(encoder, "attention_dropout", 0))
        self.attention = self.attention or encoder._attn_implementation  # auto_find_batch_size begins several times
        if (dropout or args.bf16 and has_bf16()) and self.attention == "sdpa":
            model.set_attn_implementation(_ATTENTION)

    def on_train_end(self, args, state, control, model: PreTrainedModel = None, **kwargs):
        if args.device.type != "cpu":
            return
        for module in model.modules():
            if type(module) is CpuDropout:
                module.__class__ = nn.Dropout
        model.set_attn_implementation(self.attention)
