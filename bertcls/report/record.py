"""How a run was made: command, versions, time and memory."""

import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer

from bertcls.data.columns import numbers_in
from bertcls.layout import RECORD
from bertcls.process import peak_memory

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def revision_of(dataset: Dataset) -> str | None:
    """The commit on the Hub that a data set was loaded from, where it says so."""
    addresses = " ".join(dataset.info.download_checksums or {})
    found = re.search(r"@([0-9a-f]{40})(?:[/ ]|$)", addresses)
    return found and found[1]


def write_record(trainer: Trainer | None, *, run_dir: str, started: float, seed: int | None = None) -> dict:
    """Writes how a run was made to `run.json`, as this process saw it; not pushed, since it may hold local paths.

    `started` is in seconds of `time.time()`; a model that no Trainer trained has a `seed`. Memory is the peak of the
    process. `train_seconds` hold evaluations; what is done a second is counted over them, in tokens of windows
    without padding, and `None` of a resumed run.
    """
    on_gpu = trainer is not None and trainer.args.device.type not in ("cpu", "mps")
    peaks = {"process": peak_memory(), "accelerator": torch.accelerator.max_memory_allocated() if on_gpu else None}
    record = {
        "command": _without_tokens(sys.argv),
        "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        "seed": trainer.args.seed if seed is None else seed,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "wall_seconds": round(time.time() - started, 1),
        **({} if trainer is None else _training_record(trainer)),
        "peak_memory_gib": {where: size and round(size / 2**30, 2) for where, size in peaks.items()},
    }
    Path(run_dir, RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _training_record(trainer: Trainer) -> dict:
    args, state, dataset = trainer.args, trainer.state, trainer.train_dataset
    logged = {key: value for entry in state.log_history for key, value in entry.items()}  # the last of each
    seconds = logged.get("train_runtime")
    per_second = state.epoch / seconds if seconds and state.epoch and not args.resume_from_checkpoint else None
    return {
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "cpu_threads": torch.get_num_threads(),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "train_seconds": seconds and seconds + getattr(trainer.model, "stage_seconds", 0.0),
        "train_examples_per_second": per_second and round(len(dataset) * per_second, 2),
        "train_tokens_per_second": per_second and round(numbers_in(dataset, "length").sum() * per_second, 1),
    }


def _without_tokens(words: list[str]) -> list[str]:
    """A command line without what `--hub_token` gives.

    >>> _without_tokens(["x.py", "--hub_token", "hf_1", "--hub_token=hf_2", "--seed", "1"])
    ['x.py', '--hub_token', '***', '--hub_token=***', '--seed', '1']
    """
    joined = "\0".join(words)  # no word of a command line holds a zero
    return re.sub(r"(--hub[-_]token[=\0])[^\0]*", r"\1***", joined).split("\0")


def _git_commit(folder: Path) -> str | None:
    """The commit that a folder is at, with `-dirty` where files of it were changed; `None` outside a repository."""
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
