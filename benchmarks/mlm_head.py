"""Steps of masked language modelling: the vocabulary at masked positions alone against the stock head, side by side.

Both train copies of the same model on the same batches, in interleaved rounds of one process, so that noise of the
machine meets both. It prints the medians, their ratio, the difference of the first losses, and the rate of a plain
matrix product of the same process, for scale.
Run:  python benchmarks/mlm_head.py --model_name_or_path $MODEL
      python benchmarks/mlm_head.py --model_name_or_path $MODEL --bf16
"""

import argparse
import copy
import time

import numpy as np
import torch
from machine import DEVICE, matmul_rate, show, wait_for
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from bertcls.training.mlm import masked_positions_only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--batch_size", type=int, default=8, help="blocks")
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="as the recipe trains where it is native; else fp32")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    stock = AutoModelForMaskedLM.from_pretrained(args.model_name_or_path, dtype=torch.float32)
    for module in stock.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # equal losses can be seen only without
    stock.to(DEVICE)
    models = {"stock": stock, "masked positions": masked_positions_only(copy.deepcopy(stock))}
    optimizers = {name: torch.optim.AdamW(model.train().parameters(), fused=True) for name, model in models.items()}
    ids = torch.randint(1000, len(tokenizer), (args.rounds + 1, args.batch_size, args.max_length)).tolist()
    masking = DataCollatorForLanguageModeling(tokenizer, seed=0)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    gap = 0.0
    for number, rows in enumerate(ids):
        batch = masking([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows])
        batch = {name: tensor.to(DEVICE) for name, tensor in batch.items()}
        losses = []
        for name in list(models)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=args.bf16):
                loss = models[name](**batch).loss
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            wait_for(DEVICE)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            losses.append(loss.item())
        if number == 0:
            gap = abs(losses[0] - losses[1])  # of equal weights; later ones drift apart by rounding
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    precision = "bf16" if args.bf16 else "fp32"
    title = (
        f"{args.batch_size} blocks of {args.max_length} tokens, {precision}, {args.rounds} rounds; "
        f"the first losses differ by {gap:.1e}; fp32 matrix products: {matmul_rate(device=DEVICE):.0f} GFLOP/s"
    )
    table = [[name, medians[name], medians["stock"] / medians[name]] for name in models]
    headings = ["head", "seconds a step", "x times as fast as stock"]
    show(title, headings, table, args.output, loss_difference=gap, seconds=seconds)


if __name__ == "__main__":
    main()
