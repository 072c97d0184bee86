"""How a run was made: command, versions, time and memory."""

import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer

from bertcls.layout import RECORD
from bertcls.process import peak_memory

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def revision_of(dataset: Dataset) -> str | None:
    """The commit on the Hub that a data set was loaded from, where it says so."""
    for address in dataset.info.download_checksums or {}:
        if found := re.search(r"@([0-9a-f]{40})(?:/|$)", address):
            return found[1]
    return None


def write_record(trainer: Trainer | None, *, run_dir: str, started: float, seed: int | None = None) -> dict:
    """Writes how a run was made to `run.json`, as this process saw it; not pushed, since it may hold local paths.

    Args:
        trainer: that trained; `None` for a model that no Trainer trained.
        run_dir: where the file goes.
        started: when the run began, in seconds of `time.time()`.
        seed: `None` takes the Trainer's.

    Returns:
        `command` (without tokens of the Hub), `git_commit` of the recipe's repository (with `-dirty` where its files
        were changed; `None` outside of one), `seed`, `versions`, `wall_seconds`, and `peak_memory_gib` of the process
        since it began (earlier ones of `--seeds` included) and of its accelerator in this run. Of a Trainer also
        `device`, `processes`, `cpu_threads` of each and `precision`; `train_seconds`, with evaluations, and over
        these `train_examples_per_second` and `train_tokens_per_second` (tokens of windows without padding; `None`
        for a resumed run); and `padding_share` of the training batches.
    """
    record = {
        "command": _without_tokens(sys.argv),
        "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        "seed": trainer.args.seed if seed is None else seed,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "wall_seconds": round(time.time() - started, 1),
        **({} if trainer is None else _training_record(trainer)),
        "peak_memory_gib": {
            "process": round(peak_memory() / 2**30, 2),
            "accelerator": None
            if trainer is None or trainer.args.device.type == "cpu"
            else round(torch.accelerator.max_memory_allocated() / 2**30, 2),
        },
    }
    Path(run_dir, RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _training_record(trainer: Trainer) -> dict:
    args, state, dataset = trainer.args, trainer.state, trainer.train_dataset
    summary = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), {})
    seconds = summary.get("train_runtime")
    rates = {"train_examples_per_second": None, "train_tokens_per_second": None}
    if seconds and not args.resume_from_checkpoint:
        per_second = state.epoch / seconds
        rates = {
            "train_examples_per_second": round(len(dataset) * per_second, 2),
            "train_tokens_per_second": round(int(np.sum(dataset["length"][:])) * per_second, 1),
        }
    padding = [entry["padding_share"] for entry in state.log_history if "padding_share" in entry]
    return {
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "cpu_threads": torch.get_num_threads(),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "train_seconds": seconds,
        **rates,
        "padding_share": round(float(np.mean(padding)), 4) if padding else None,
    }


def _without_tokens(words: list[str]) -> list[str]:
    """A command line without what `--hub_token` gives.

    >>> _without_tokens(["x.py", "--hub_token", "hf_1", "--hub_token=hf_2", "--seed", "1"])
    ['x.py', '--hub_token', '***', '--hub_token=***', '--seed', '1']
    """
    hidden = [re.sub(r"^(--hub[-_]token=).*", r"\1***", word) for word in words]
    return [
        "***" if place and re.fullmatch(r"--hub[-_]token", hidden[place - 1]) else word
        for place, word in enumerate(hidden)
    ]


def _git_commit(folder: Path) -> str | None:
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return f"{commit}-dirty" if dirty else commit
