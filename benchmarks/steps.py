"""A training step of the recipe's kind on its own: padded, packed without padding, and by torch.compile.

Batches are those of the recipe, texts of like length; a step is a forward and backward pass in bf16, the clipping of
gradients and fused AdamW, without Trainer. Packed texts stand behind one another in one row and attend within
themselves, on a GPU by torch's varlen_attn. That has no dropout, so padded texts are measured without it as well;
`off` is how far a logit of theirs is from the packed one. The first pass over the batches holds what is made once.

Run:  python benchmarks/steps.py --model_name_or_path $MODEL --dataset_name $DATA/sst2
"""

import argparse
import time
from collections import Counter

import torch
from machine import DEVICE, show, wait_for
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.trainer_pt_utils import LengthGroupedSampler

from bertcls import BertClsForSequenceClassification, WindowCollator, load_splits, load_tokenizer, tokenize_windows
from bertcls.process import use_cores

LOOKS_BACK = 50  # batches among which Trainer sorts by length
WAYS = {  # options of the model, and of torch.compile
    "padded": ({}, None),
    "padded, attention without dropout": ({"attention_dropout": 0.0}, None),
    "packed, attention without dropout": ({"attention_dropout": 0.0, "attn_implementation": "packed"}, None),
    "compiled, any length": ({}, {"dynamic": True}),
    "one length, padded": ({}, None),
    "one length, compiled": ({}, {"dynamic": False}),
    "one length, compiled with mode=reduce-overhead": ({}, {"dynamic": False, "mode": "reduce-overhead"}),
}


def batches_of(args: argparse.Namespace) -> list[dict]:
    """What the recipe's first steps train on, on the device."""
    tokenizer = load_tokenizer(args.model_name_or_path)
    rows = load_splits(args.dataset_name)["train"].shuffle(seed=0).select(range(args.batch_size * args.steps))
    settings = {"tokenizer": tokenizer, "max_length": min(128, tokenizer.model_max_length)}
    rows = rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=settings)
    torch.manual_seed(0)
    order, collate = [*LengthGroupedSampler(args.batch_size, lengths=rows["length"][:])], WindowCollator(tokenizer)
    parts = [rows.select(order[start : start + args.batch_size]) for start in range(0, len(order), args.batch_size)]
    return [{name: tensor.to(DEVICE) for name, tensor in collate(part.to_list()).items()} for part in parts]


def packed_attention(module, query, key, value, attention_mask, cu_seq_lens_q=None, max_length_q=None, **kwargs):
    """Attention within each of the texts `[1, heads, tokens, size]` that stand behind one another; without dropout."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        flat = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]  # [tokens, heads, size]
        return varlen_attn(*flat, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)[None], None
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    parts = zip(*(tensor.split(sizes, 2) for tensor in (query, key, value)))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], 2).transpose(1, 2), None


AttentionInterface.register("packed", packed_attention)  # and no mask of that name: transformers then makes none


def pack(batch: dict) -> dict:
    """A padded batch as one row of tokens without padding."""
    real = batch["attention_mask"].bool()
    lengths = real.sum(1)
    places = torch.arange(real.shape[1], device=real.device).expand_as(real)
    owners = torch.arange(len(real), device=real.device)[:, None].expand_as(real)
    inputs = {name: batch[name][real][None] for name in ("input_ids", "token_type_ids") if name in batch}
    inputs["cu_seq_lens_q"] = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    inputs |= {"position_ids": places[real][None], "max_length_q": int(lengths.max())}
    return {"inputs": inputs, "owners": owners[real], "lengths": lengths, "labels": batch["labels"]}


def packed_logits(model: BertClsForSequenceClassification, batch: dict) -> torch.Tensor:
    """`[batch, num_labels]` by the means of each text's tokens."""
    hidden = model.encoder(**batch["inputs"]).last_hidden_state[0]
    sums = hidden.new_zeros(len(batch["lengths"]), hidden.shape[-1]).index_add_(0, batch["owners"], hidden)
    return model.head(sums / batch["lengths"][:, None])


def logits_of(model: BertClsForSequenceClassification, batch: dict) -> torch.Tensor:
    return packed_logits(model, batch) if "owners" in batch else model(**batch).logits


def loss_of(model: nn.Module, batch: dict) -> torch.Tensor:
    if "owners" in batch:
        return F.cross_entropy(packed_logits(model, batch).float(), batch["labels"])
    return model(**batch).loss


def make_model(args: argparse.Namespace, **options) -> BertClsForSequenceClassification:
    torch.manual_seed(0)
    options |= {"num_labels": 2, "pooling": "mean"}
    return BertClsForSequenceClassification.from_encoder(args.model_name_or_path, **options).to(DEVICE)


def measure(model: nn.Module, batches: list[dict], compile_options: dict | None) -> list[float]:
    """Seconds of a first pass over the batches, and of a second one."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-5, fused=True)
    forward = model if compile_options is None else torch.compile(model, **compile_options)
    seconds: list[float] = []
    for _ in range(2):
        wait_for(DEVICE)
        start = time.perf_counter()
        for batch in batches:
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = loss_of(forward, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        wait_for(DEVICE)
        seconds.append(time.perf_counter() - start)
    return seconds


@torch.inference_mode()
def difference(args: argparse.Namespace, packed: nn.Module, batch: dict) -> float:
    """The largest between the logits of a batch, packed and padded."""
    with torch.autocast(DEVICE, torch.bfloat16):
        padded = make_model(args, attention_dropout=0.0).eval()
        return float((logits_of(packed.eval(), pack(batch)) - logits_of(padded, batch)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--batch_size", type=int, default=64, help="texts")
    parser.add_argument("--steps", type=int, default=2 * LOOKS_BACK, help="of a pass; two passes are made")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="none: all")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (%(default)s)")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    use_cores()
    batches = batches_of(args)
    usual = Counter(batch["input_ids"].shape for batch in batches).most_common(1)[0][0]
    alike = [batch for batch in batches if batch["input_ids"].shape == usual]
    fill = sum(int(b["attention_mask"].sum()) for b in batches) / sum(b["attention_mask"].numel() for b in batches)
    title = f"Batches of {args.batch_size} on {DEVICE}, {100 * fill:.1f} % filled; one length is {usual[1]} tokens"
    headings, table = ["way", "ms a step", "texts/s", "first pass, s", "steps", "off"], []
    for way in args.ways:
        options, compile_options = WAYS[way]
        used, off = alike if way.startswith("one length") else batches, ""
        model = make_model(args, **options)
        if way.startswith("packed"):
            off, used = difference(args, model, batches[0]), [pack(batch) for batch in batches]
        try:
            first, seconds = measure(model, used, compile_options and compile_options | {"backend": args.backend})
        except Exception as error:  # of compilers, on machines that they do not know
            table.append([way, f"failed: {type(error).__name__}: {str(error)[:300]}", "", "", "", off])
        else:
            table.append(
                [way, 1000 * seconds / len(used), args.batch_size * len(used) / seconds, first, len(used), off]
            )
        torch.compiler.reset()
        show(title, headings, table, args.output)  # again after each: a later one may take all the time


if __name__ == "__main__":
    main()
