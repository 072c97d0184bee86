"""Checkpoints that can be relied on: whole or refused, gone on with by the same run only, saved when SIGTERM comes."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import TrainerCallback
from transformers.utils import flatten_dict

from bertcls.data.columns import tables
from bertcls.export.onnx import remove_export
from bertcls.layout import CHECKPOINTS, COMPLETE, MODULES, ONNX, PLAIN, RUN_FILES, START, STUDY
from bertcls.process import file_digest, is_full_disk, sync_folder, whole_file
from bertcls.together import meet, processes

_SETTINGS = (  # of TrainingArguments; the first two decide on rows and weights, so they are compared first
    "seed data_seed train_sampling_strategy learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor bf16 fp16"
).split()
_UNCOMPARED = {  # settings of a model that change in training or with a library; the names of id2label are compared
    *"architectures auto_map dtype id2label label2id temperature thresholds transformers_version use_cache".split()
}
_SAMPLED = 256  # values of each weight that tell encoders apart
_ROWS = ("input_ids", "label", "labels", "example_id")  # columns that a training row's digest is made of


class Checkpoints(TrainerCallback):
    """Makes a run one that can be killed at any moment and gone on with, to the same end.

    - After each save, when all processes have written, `complete.json` is written last, and then old checkpoints are
      removed: Trainer removes them before.
    - A run that resumes is compared with the one that saved before its weights are loaded, and its rows before the
      first step.
    - A run that was killed after its last step resumes without another one, and with the best model.
    - The order of the rows (and, through `MaskedBatches`, their masks) follows from the seed and the epoch alone, so
      that a run stopped within an epoch goes on with the rows that it had not seen.
    - SIGTERM saves after the current step, on all processes the same, and ends the program with exit code 143; a
      second one ends it at once (with several processes the launcher does that).

    Args:
        overwrite: remove what an earlier run left in the folder, as soon as the model is there.
        **compared: further settings of the run that a resumed one must share.
    """

    def __init__(self, *, overwrite: bool = False, **compared):
        self.overwrite, self.compared = overwrite, compared
        self.run: dict = {}
        self.restored: dict = {}  # arguments of a finished run, changed while it is loaded
        self.kept: int | None = None  # checkpoints
        self.terminated = False
        self.former_handler = None
        self.group = None  # of processes, for a word that does not wait for the accelerator

    def on_init_end(self, args, state, control, model=None, **kwargs):
        self.run = describe_run(args, model) | self.compared
        self.kept = args.save_total_limit
        if self.overwrite and args.process_index == 0:
            clear_output(str(Path(args.output_dir).parent))
        meet()
        if args.resume_from_checkpoint is None:
            return
        checkpoint = Path(args.resume_from_checkpoint)
        record = json.loads((checkpoint / COMPLETE).read_text())
        check_same_run(self.run, record["run"], checkpoint=checkpoint)
        longer = _is_longer(self.run, record["run"])
        if longer and args.process_index == 0:
            print(
                f"Warning: found {_length(self.run)}, not {_length(record['run'])} as before: the schedule of the "
                "learning rate changes from here on, so the result is not that of a run that had the new length from "
                "its start."
            )
        ended = record["ended"] == "early" or (record["ended"] == "steps" and not longer)
        if not ended and not any(name.startswith("rng_state") for name in record["files"]):  # --save_only_model
            raise ValueError(
                f"Found the model alone in {checkpoint}; expected the states of the optimizer, the schedule and the "
                "random numbers too. Begin anew with --overwrite_output, without --save_only_model."
            )
        if ended:
            self.restored = {name: getattr(args, name) for name in ("num_train_epochs", "max_steps")}
            args.num_train_epochs, args.max_steps = int(record["epoch"]), -1  # else Trainer makes one more step

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.run |= describe_rows(train_dataloader.dataset)
        if args.resume_from_checkpoint is not None:
            checkpoint, folder = Path(args.resume_from_checkpoint), Path(args.output_dir)
            check_same_run(self.run, json.loads((checkpoint / COMPLETE).read_text())["run"], checkpoint=checkpoint)
            if state.best_global_step and args.load_best_model_at_end:
                best = checkpoint.parent / f"checkpoint-{state.best_global_step}"  # the folder may have been moved
                if (why := why_incomplete(best, read=True)) is not None:
                    raise ValueError(
                        f"Found {best}: {why}; expected the best model so far, which is loaded at the end. Restore "
                        "it, or begin anew."
                    )
                state.best_model_checkpoint = str(best)
            elif (checkpoint.parent / START).is_dir():  # which is removed once it is beaten
                state.best_model_checkpoint = str(checkpoint.parent / START)
            if args.process_index == 0 and checkpoint.resolve().parent == folder.resolve():
                clear_results(str(folder.parent))  # of a run that is not at its end any more
                if not self.restored:
                    remove_export(folder.parent / ONNX)  # of other weights than those to come
                for later in checkpoints_in(folder):
                    if _step(later) > state.global_step:
                        print(f"Removed {later.name}, which came after the checkpoint that the run goes on from.")
                        shutil.rmtree(later)
        for name, value in self.restored.items():
            setattr(args, name, value)
        if self.restored:
            control.should_training_stop = True
        args.save_total_limit = None  # Trainer would remove before we have written
        if args.world_size > 1 and self.group is None:
            self.group = torch.distributed.new_group(backend="gloo", timeout=args.ddp_timeout_delta)
        if self.former_handler is None and threading.current_thread() is threading.main_thread():
            self.former_handler = signal.signal(signal.SIGTERM, self._terminate)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        collate = train_dataloader.collate_fn
        if hasattr(collate, "epoch"):
            collate.epoch.fill_(int(state.epoch))
        sampler = sampler_of(train_dataloader)
        if hasattr(sampler, "generator"):
            sampler.generator = sampler.generator or torch.Generator()
            seed = args.seed if args.data_seed is None else args.data_seed
            # a permutation of its own for each seed and epoch, whatever was drawn before
            sampler.generator.manual_seed(random.Random(f"{seed} {int(state.epoch)}").getrandbits(63))

    def on_step_end(self, args, state, control, **kwargs):
        within_epoch = state.epoch != int(state.epoch)  # at its end the evaluation belongs to the checkpoint
        if self._one_was_terminated(args) and within_epoch and not control.should_training_stop:
            control.should_save = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._one_was_terminated(args):
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        meet()  # each writes its random state
        if args.should_save:
            ended = None
            if control.should_training_stop:
                ended = "steps" if state.global_step >= state.max_steps else "early"
            write_complete(checkpoint, {"run": self.run, "ended": ended, "epoch": state.epoch})
            for folder in checkpoints_in(checkpoint.parent):
                if (why := why_incomplete(folder)) is not None:
                    print(f"Removed {folder.name}, which is not whole ({why}).")
                    shutil.rmtree(folder)
            self._remove_oldest(checkpoint, state.best_model_checkpoint)
        meet()  # a launcher ends the others when the first one ends
        if self._one_was_terminated(args):
            if args.process_index == 0:
                how = how_to_go_on(checkpoint.parent)
                if args.save_only_model:
                    how = "With --save_only_model it cannot go on: begin anew with --overwrite_output."
                stopped = f"Stopped by SIGTERM after step {state.global_step} of {state.max_steps}, which is saved."
                print(stopped, how, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGTERM)  # as of a process that it ended

    def _remove_oldest(self, newest: Path, best: str | None) -> None:
        """As Trainer does, but of its own folders alone: a copy `checkpoint-4-mine` stays."""
        folders, needed = checkpoints_in(newest.parent), {newest.name, Path(best or newest).name}
        spare = len(folders) - max(self.kept or len(folders), len(needed))
        for folder in [folder for folder in folders if folder.name not in needed][: max(spare, 0)]:
            shutil.rmtree(folder, ignore_errors=True)

    def on_train_end(self, args, state, control, **kwargs):
        args.save_total_limit = self.kept
        if self.former_handler is not None:
            signal.signal(signal.SIGTERM, self.former_handler)
        if self.terminated:  # after the last checkpoint
            os.kill(os.getpid(), signal.SIGTERM)

    def _terminate(self, number, frame) -> None:
        self.terminated = True
        if processes() == 1:  # else a launcher may forward what the process got already
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _one_was_terminated(self, args) -> bool:
        if args.world_size == 1:
            return self.terminated
        flag = torch.tensor(float(self.terminated))
        torch.distributed.all_reduce(flag, group=self.group)
        return bool(flag)


def sampler_of(dataloader):
    """That which orders the rows; with several processes it is within the one that shares out its batches."""
    found = dataloader.get_sampler()
    shared = getattr(dataloader.batch_sampler, "batch_sampler", None)
    return getattr(shared, "sampler", None) if found is None else found


def describe_run(args, model) -> dict:
    """What a run that resumes must share with the one that saved: settings, labels, encoder, contract; plain values.

    The model is as before training; its `start_digest` tells its encoder from another, where it is set.
    """
    found = {name: getattr(getattr(args, name), "value", getattr(args, name)) for name in _SETTINGS}
    found["batch size (per device x accumulation x processes)"] = (
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    )
    found["num_train_epochs"], found["max_steps"] = float(args.num_train_epochs), args.max_steps
    config = model.config.to_dict()
    found["labels"] = list(config.pop("id2label", {}).values())
    for name, value in flatten_dict(config).items():
        parts = name.split(".")
        if not _UNCOMPARED & {*parts} and not parts[-1].startswith("_") and not parts[-1].endswith("token_id"):
            found[name] = value
    encoder = getattr(model, model.base_model_prefix, model)
    found["encoder weights"] = getattr(model, "start_digest", None) or weights_digest(encoder)
    found["trainable parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return json.loads(json.dumps(found, default=str))


def weights_digest(model) -> str:
    """Of a few values of each weight, which tell one encoder from another."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        few = weight.detach().flatten()[:: max(weight.numel() // _SAMPLED, 1)]
        digest.update(f"{name} {tuple(weight.shape)}".encode() + few.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def describe_rows(dataset) -> dict:
    """The number of the training rows and a digest of their tokens, labels and ids, whatever files hold them.

    Returns:
        `training rows` and `content of the training rows`; nothing for a stream.
    """
    names = [name for name in _ROWS if name in (getattr(dataset, "column_names", None) or [])]
    names = [name for name in names if getattr(dataset.features[name], "dtype", None) != "binary"]  # of a teacher
    if not names or not hasattr(dataset, "__len__"):
        return {}
    digests: dict = {}
    for table in tables(dataset, *names):
        for name in names:
            for chunk in table[name].chunks:
                _digest_array(chunk, name, digests)
    parts = [f"{name} {digest.hexdigest()}" for name, digest in sorted(digests.items())]
    content = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return {"training rows": len(dataset), "content of the training rows": content}


def _digest_array(array: pa.Array, name: str, digests: dict) -> None:
    """Adds values and list lengths to the digests, one a depth: the cut into chunks does not count."""
    while pa.types.is_nested(array.type):
        lengths = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
        digests.setdefault(f"{name} lengths", hashlib.sha256()).update(lengths.astype("<i8").tobytes())
        name, array = f"{name} items", array.flatten()
    if array.null_count:  # of rows without a label
        empty = array.is_null().to_numpy(zero_copy_only=False).tobytes()
        digests.setdefault(f"{name} nulls", hashlib.sha256()).update(empty)
        array = array.fill_null(0)
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        kind = "<i8" if pa.types.is_integer(array.type) else "<f8"
        content = array.to_numpy(zero_copy_only=False).astype(kind).tobytes()
    else:
        content = "".join(f"{value!r}\n" for value in array.to_pylist()).encode()
    digests.setdefault(name, hashlib.sha256()).update(content)


def check_same_run(found: dict, expected: dict, *, checkpoint: Path) -> None:
    """Refuses to go on with a checkpoint of another run. More epochs or steps are allowed.

    `found` and `expected` are `describe_run` and `describe_rows` of this run and of the one that saved; what only one
    of them holds is not compared.

    Raises:
        ValueError: the first difference.
    """
    for name, value in found.items():
        if name not in expected or value == expected[name]:
            continue
        if name in ("num_train_epochs", "max_steps"):
            if _is_longer(found, expected) or (name == "num_train_epochs" and found["max_steps"] > 0):
                continue
        here, there = _shown(value, expected[name])
        raise ValueError(
            f"Found {name} {here}, expected {there} as in {checkpoint}: this is another run. Give the data and the "
            "options that it was begun with, or leave out --resume_from_checkpoint and begin a new one."
        )


def _shown(found, expected) -> tuple[str, str]:
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return f"with {len(found)} entries", f"{len(expected)}"
        place = next(place for place, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
        return f"number {place}: {found[place]!r}", repr(expected[place])
    return str(found), str(expected)


def _is_longer(found: dict, expected: dict) -> bool:
    name = "max_steps" if found["max_steps"] > 0 else "num_train_epochs"
    same_kind = (found["max_steps"] > 0) == (expected["max_steps"] > 0)
    return same_kind and found[name] > expected[name]


def _length(run: dict) -> str:
    return f"{run['max_steps']} steps" if run["max_steps"] > 0 else f"{run['num_train_epochs']:g} epochs"


def write_complete(checkpoint: Path, facts: dict) -> None:
    """Writes `complete.json` into a checkpoint after all in it is on the disk: names, sizes, digests, and `facts`."""
    files = {path: path.stat().st_size for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    for folder in [checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    sizes = {path.relative_to(checkpoint).as_posix(): size for path, size in files.items() if path.name != COMPLETE}
    facts = {"files": sizes, "digests": {name: file_digest(checkpoint / name) for name in sizes}} | facts
    with whole_file(checkpoint / COMPLETE) as path:
        path.write_text(json.dumps(facts, indent=2) + "\n")
    sync_folder(checkpoint.parent)


def why_incomplete(checkpoint: Path, *, read: bool = False) -> str | None:
    """What makes a checkpoint unusable; `None` where `complete.json` is there and fits the files, and, if they are to
    be `read`, their content."""
    try:
        record = json.loads((checkpoint / COMPLETE).read_text())
        sizes, digests = record["files"], record.get("digests", {})  # which earlier versions did not write
    except FileNotFoundError:
        return f"no {COMPLETE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"unreadable {COMPLETE}"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, expected {size}"
        if read and name in digests and file_digest(path) != digests[name]:
            return f"{name} was changed after it was written"
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders `checkpoint-N` of a folder, by step; others with such a name are not ours."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=_step)


def newest_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and of each later one its name and why it cannot be used."""
    skipped = []
    for checkpoint in reversed(checkpoints_in(folder)):
        if (why := why_incomplete(checkpoint, read=True)) is None:
            return checkpoint, skipped
        skipped.append(f"{checkpoint.name} ({why})")
    return None, skipped


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def clear_results(run_dir: str) -> None:
    """Removes what a run left at its end, so that it does not pass for what comes; other files stay."""
    for name in (*RUN_FILES, MODULES):
        Path(run_dir, name).unlink(missing_ok=True)
    for name in ("report", "stock"):
        shutil.rmtree(Path(run_dir, name), ignore_errors=True)


def removed_by_overwriting(run_dir: str) -> list[Path]:
    """The files and folders that `clear_output` removes, there or not."""
    return [Path(run_dir, name) for name in (*RUN_FILES, MODULES, "report", "stock", ONNX, PLAIN, CHECKPOINTS)]


def clear_output(run_dir: str) -> None:
    """Removes what an earlier run left in a folder, for `--overwrite_output`: an old best model must not win over the
    new one, nor old scores pass for new ones. Other files stay."""
    clear_results(run_dir)
    remove_export(Path(run_dir, ONNX))
    for name in (PLAIN, CHECKPOINTS):
        shutil.rmtree(Path(run_dir, name), ignore_errors=True)


def how_to_go_on(checkpoints: Path) -> str:
    """With a run that was stopped, whose checkpoints lie in a folder."""
    run = checkpoints.parent
    of_a_search = run.parent if run.name == "trial" else run.parents[2] if run.parent.parent.name == "final" else None
    if of_a_search is not None and (of_a_search / STUDY).exists():
        return "The same command goes on."
    if newest_complete(checkpoints)[0] is None:
        return "No checkpoint is whole yet: begin anew" + (", with --overwrite_output." if run.exists() else ".")
    while run.name.startswith(("seed-", "fold-", "size-")) or run.name in ("final", PLAIN):  # one of several
        run = run.parent
    return f"To go on, give --output_dir {run} --resume_from_checkpoint and the same options."


def clean_up_full_disk(error: Exception, under_way: Path | None) -> str | None:
    """Where a disk is full, removes the checkpoint that is half written and gives a line for the user; else `None`.

    `under_way` is the folder of the run's checkpoints; `None` where none was begun.
    """
    if under_way is None or not is_full_disk(error):
        return None
    file = getattr(error, "filename", None)
    if file is not None and under_way.parent.resolve() not in Path(file).resolve().parents:
        return None  # another disk, which the error names itself
    for folder in checkpoints_in(under_way)[-1:]:
        if why_incomplete(folder) is not None:  # the one being written
            shutil.rmtree(folder, ignore_errors=True)
    checkpoint, _ = newest_complete(under_way)
    left = "no checkpoint is whole yet"
    if checkpoint is not None:
        left = f"{checkpoint} is whole, and --resume_from_checkpoint goes on from it"
    return (
        f"The folder {under_way.parent} could not be written ({error}); expected room on its disk. Free some, and "
        f"start again; {left}."
    )
