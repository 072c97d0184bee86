"""From the command line to runs: their arguments and folders, and one run a seed, a fold or a size."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from transformers.hf_argparser import string_to_bool
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from bertcls.arguments import RunArguments, TextArguments
from bertcls.layout import CHECKPOINTS, LAUNCH, NEWEST, RECORD, RESULTS
from bertcls.process import LOCK, lock_folder, one_line_errors, read_json, refuse_inside, say, use_cores, whole_file
from bertcls.together import check_shared, from_rank_0, launchers, restarts, start_pulse, staying_together
from bertcls.training.adapters import check_adapters
from bertcls.training.checkpoints import (
    clean_up_full_disk,
    how_to_go_on,
    newest_complete,
    removed_by_overwriting,
    why_incomplete,
)
from bertcls.training.console import quiet
from bertcls.training.options import Parser

Arguments = TypeVar("Arguments", bound=TextArguments)


def run_recipe(
    main: Callable,
    arguments_class: type[Arguments],
    argv: list[str] | None = None,
    *,
    defaults: dict,
    sample: dict | None = None,
    description: str | None = None,
) -> None:
    """Runs a recipe as a program: its command line, once for each of `--seeds`, and one line where it is wrong.

    `main` of the recipe is called with its arguments and `RunArguments`; the rest is as in `parse`.
    """
    under_way: Path | None = None

    def explain(error: BaseException) -> str | None:
        if isinstance(error, KeyboardInterrupt):
            return how_to_go_on(under_way) if under_way else None
        return clean_up_full_disk(error, under_way)

    with one_line_errors(explain=explain), staying_together():
        for args, training_args in parse_runs(
            arguments_class, argv, defaults=defaults, sample=sample, description=description
        ):
            under_way = Path(training_args.output_dir)
            start_pulse(training_args.ddp_timeout_delta)
            try:
                main(args, training_args)
            except BaseException:
                _leave_no_empty_folder(args)
                raise


def parse_runs(
    arguments_class: type[Arguments], argv: list[str] | None = None, **options
) -> Iterator[tuple[Arguments, RunArguments]]:
    """`parse`, once for each run: with `--seeds`, `--folds` or `--train_sizes` several in folders of their own.

    With `--resume_from_checkpoint` the runs that had saved nothing whole yet begin anew.

    Raises:
        ValueError: as `parse`, or options that contradict one another.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in argv]
    finder = Parser(add_help=False)
    finder.add_argument("--seeds", nargs="+", type=int, default=[])
    finder.add_argument("--folds", type=int, default=0)
    finder.add_argument("--train_sizes", nargs="+", type=float, default=[])
    named, pushes = (options["defaults"].get(name) for name in ("output_dir", "push_to_hub"))
    finder.add_argument("--push_to_hub", type=string_to_bool, nargs="?", const=True, default=pushes or False)
    finder.add_argument("--output_dir", default=named or str(_unnamed_run()))
    finder.add_argument("--resume_from_checkpoint", nargs="?", const=NEWEST, default="no")
    found, rest = finder.parse_known_args(argv)
    given = {word.split("=")[0][2:] for word in argv if word.startswith("--")}
    _refuse_both(given, "seeds seed", "seeds folds", "folds fold", "train_sizes max_train_samples")
    for name, values in (("seeds", found.seeds), ("train_sizes", found.train_sizes)):
        if len({*values}) < len(values):
            raise ValueError(f"Found --{name} with a number twice; expected different ones. Leave one out.")
    if found.push_to_hub and (found.seeds or found.train_sizes):
        raise ValueError("Found --push_to_hub with several models; push one later: python -m bertcls.hub push FOLDER")
    if "folds" in given and found.folds < 2:
        raise ValueError(f"Found --folds {found.folds}; expected at least 2. Raise it.")
    if wrong := [size for size in found.train_sizes if not 0 < size <= 1 and (size < 1 or size % 1)]:
        raise ValueError(f"Found --train_sizes {wrong[0]:g}; expected shares up to 1, or whole numbers of rows.")
    if not (found.seeds or found.folds or found.train_sizes):
        yield parse(arguments_class, argv, **options)
        return
    from bertcls.report.folds import as_folds_chose  # of one run nothing is read, and --help waits for no pandas

    resumes = found.resume_from_checkpoint.lower() not in ("false", "no", "0")
    if resumes and named is None and "output_dir" not in given:
        raise ValueError(
            "Found --resume_from_checkpoint without a folder; expected the one of the runs. Give --output_dir."
        )
    if resumes and found.resume_from_checkpoint.lower() not in (NEWEST, "true", "yes", "1", "last"):
        raise ValueError(
            f"Found --resume_from_checkpoint {found.resume_from_checkpoint} with several runs; expected it without a "
            "value: each goes on from its own newest one."
        )
    if found.seeds and not 0 <= min(found.seeds) <= max(found.seeds) < 2**32:
        raise ValueError(f"Found --seeds {' '.join(map(str, found.seeds))}; expected numbers from 0 below 2**32.")
    output, plan = Path(found.output_dir).expanduser(), []
    for size in found.train_sizes or [None]:
        folder = output if size is None else output / f"size-{size:.15g}"
        drawn = [] if size is None else ["--max_train_samples", f"{size:.15g}"]
        runs = [(folder / f"seed-{seed}", ["--seed", str(seed)]) for seed in found.seeds]
        runs += [(folder / f"fold-{fold}", ["--fold", f"{fold}/{found.folds}"]) for fold in range(1, found.folds + 1)]
        if found.folds and size is None:
            runs.append((folder / "final", ["--fold", f"final/{found.folds}"]))
        plan += [(path, [*drawn, *words]) for path, words in runs or [(folder, [])]]
    for path, _ in [] if resumes or restarts() or "overwrite_output" in given else plan:
        _refuse_filled(path)  # before the first of them trains
    for path, words in plan:
        if path.name == "final" and "max_steps" not in given:
            words = [*words, *from_rank_0(partial(as_folds_chose, path.parent, found.folds))]  # which wrote them
        if resumes:
            begun, results = newest_complete(path / CHECKPOINTS)[0] is not None, path / RESULTS
            saved = [*path.glob("*.safetensors"), *path.glob("encoder/*.safetensors")]
            ended = results.is_file() and read_json(results).get("headline") != ""  # which comes at the end
            if not begun and ended and saved:  # few rows: it had nothing to save on its way
                say(f"{path} has ended, and stays as it is.")
                continue
            how = "--resume_from_checkpoint" if begun else "--overwrite_output"
            words = [*words, *([how] if begun or path.exists() and not restarts() else [])]
        words = [*words, "--output_dir", str(path), "--push_to_hub", str(found.push_to_hub)]
        args, training_args = parse(arguments_class, [*rest, *words], **options)
        if args.hub is not None:
            args.hub = (
                args.hub | {"repo_id": args.hub["repo_id"] or output.resolve().name} if path.name == "final" else None
            )
        yield args, training_args


def parse(
    arguments_class: type[Arguments],
    argv: list[str],
    *,
    defaults: dict,
    sample: dict | None = None,
    description: str | None = None,
) -> tuple[Arguments, RunArguments]:
    """Command line to arguments. What the command line says wins over the recipe's defaults, and these over the rest.

    Args:
        arguments_class: `TextArguments`, `RecipeArguments` or a subclass.
        argv: words of the command line.
        defaults: of this recipe, for both classes.
        sample: on top of them with `--sample`.
        description: shown by `--help`.

    Returns:
        the recipe's arguments, with `run_dir` set to the folder of the run, and `RunArguments`, whose `output_dir` is
        the folder of the checkpoints in it.

    Raises:
        ValueError: an unknown, abbreviated or contradictory option, or several GPUs in one process.
        FileExistsError: an output folder that is not empty.
    """
    quiet()
    parser = Parser((arguments_class, RunArguments), description=description)
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in argv if word.startswith("--")}
    parser.set_recipe_defaults(argv, given, defaults, sample or {})
    try:
        args, training_args, extra = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except Exception as error:
        unset_hf_deepspeed_config()  # a half-made one would fail whatever is loaded next in this process
        if not isinstance(error, ImportError | TypeError | json.JSONDecodeError):
            raise
        raise ValueError(
            f"The options of Trainer cannot be used here: {error}. Correct them, or install what is missing."
        ) from error
    parser.refuse_unknown(extra)
    _refuse_idle(args, training_args, given)
    _refuse_both(given, "dataset_name train_file", "max_steps num_train_epochs")
    training_args.check(given)
    args.check()
    if training_args.push_to_hub:  # Trainer would push every save, unverified, and write the token into checkpoints
        args.hub = {
            "repo_id": training_args.hub_model_id,
            "token": training_args.hub_token,
            "private": training_args.hub_private_repo,
            "revision": training_args.hub_revision,
        }
    training_args.push_to_hub, training_args.hub_token = False, None
    args.check_training(training_args)
    check_adapters(args, training_args)
    if training_args.device.type == "cpu":
        use_cores(args.cpu_threads)
    named = training_args.output_dir if "output_dir" in given | {*defaults} else None
    _refuse_restarts(args, training_args, named)
    launch, resumes = launchers() if restarts() else [], training_args.resume_from_checkpoint is not None
    args.run_dir, training_args.resume_from_checkpoint = from_rank_0(
        lambda: _make_output_dir(args, training_args, named, launch)
    )
    if not resumes and training_args.resume_from_checkpoint is not None:  # an attempt that goes on, as `RunArguments`
        training_args.eval_on_start, training_args.restore_callback_states_from_checkpoint = False, True
    if not training_args.save_on_each_node:
        check_shared(args.run_dir, "Name another --output_dir, or give --save_on_each_node")
    training_args.output_dir = str(Path(args.run_dir, CHECKPOINTS))
    args.started = time.time()
    if training_args.device.type not in ("cpu", "mps"):
        torch.accelerator.reset_peak_memory_stats()  # of an earlier one of --seeds
    return args, training_args


def _refuse_both(given: set[str], *pairs: str) -> None:
    for one, other in map(str.split, pairs):
        if {one, other} <= given:
            raise ValueError(f"Found --{one} with --{other}; expected one of them. Leave one out.")


def _refuse_idle(args: TextArguments, training_args: RunArguments, given: set[str]) -> None:
    """Refuses options of the command line that would do nothing beside the others."""
    has = partial(getattr, args)
    cut = "truncation" if has("text_pair_column", None) is None else "pair_truncation"
    for options, idle, needed in (
        ("early_stopping_patience", training_args.eval_strategy == "no", "--eval_strategy epoch"),
        ("pair_truncation", has("text_pair_column", None) is None, "--text_pair_column"),
        ("overlap window_pooling max_train_windows train_on", has(cut, "none") != "none", f"--{cut} none"),
        ("layer_decay freeze_layers", has("freeze_encoder", False), "--freeze_encoder false"),
        ("dataset_config_name", has("dataset_name", None) is None, "--dataset_name"),
        ("categories remove", has("dataset_name", None) != "20newsgroups", "--dataset_name 20newsgroups"),
    ):
        for option in options.split():
            if idle and option in given and has(option, None) not in (None, "none", 0, 1.0, False):
                raise ValueError(f"Found --{option} without {needed}; expected both. Add it, or leave it out.")


def _unnamed_run() -> Path:
    """The folder of a run that `--output_dir` does not name."""
    return Path("runs") / f"{Path(sys.argv[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _refuse_restarts(args: TextArguments, training_args: RunArguments, named: str | None) -> None:
    """Refuses what a later attempt of the launcher could not go on with."""
    for wrong, found, fix in (
        (named is None, "no --output_dir", "Name one that all machines see"),
        (training_args.save_on_each_node, "--save_on_each_node", "Leave it out, and name a folder that all see"),
        (args.overwrite_output, "--overwrite_output", "Name a new --output_dir"),
    ):
        if restarts() and wrong:
            raise ValueError(
                f"Found {found} with --max_restarts {restarts()}; expected one folder, in which each attempt goes on "
                f"from what the ones before left. {fix}."
            )


def _make_output_dir(
    args: TextArguments, training_args: RunArguments, named: str | None, launch: list[list]
) -> tuple[str, str | None]:
    """The folder of the run, locked, and the checkpoint to resume from; `launch` is that of `launchers`."""
    checkpoint, elsewhere = training_args.resume_from_checkpoint, False
    if named is not None:
        output_dir = Path(named)
    elif checkpoint is None:
        output_dir = _unnamed_run()
        while output_dir.exists():  # another run of this second
            output_dir = output_dir.with_name(output_dir.name + "-2")
    elif checkpoint == NEWEST:
        raise ValueError("Found --resume_from_checkpoint without a folder; give --output_dir of the run to resume.")
    elif Path(checkpoint).resolve().parent.name == CHECKPOINTS:
        output_dir = Path(checkpoint).resolve().parent.parent
    else:
        raise ValueError(
            f"Found --resume_from_checkpoint {checkpoint}, which does not lie in a folder {CHECKPOINTS} of a run. "
            "Name the folder of the run by --output_dir."
        )
    if _began_here(output_dir, launch):
        newest = newest_complete(output_dir / CHECKPOINTS)[0]
        checkpoint, args.overwrite_output = NEWEST if newest else checkpoint, newest is None
        print(f"Another attempt: {f'goes on from {newest.name}' if newest else 'no checkpoint is whole yet'}.")
    if checkpoint == NEWEST:
        newest, skipped = newest_complete(output_dir / CHECKPOINTS)
        if newest is None:
            raise FileNotFoundError(
                f"No checkpoint to resume from in {output_dir / CHECKPOINTS}; expected a folder checkpoint-N with "
                f"complete.json{', found ' if skipped else ''}{', '.join(skipped)}. Check --output_dir, or begin anew "
                "with --overwrite_output, which removes what is there."
            )
        if skipped:
            print(f"Resuming from {newest.name}; skipped {', '.join(skipped)}.")
        checkpoint = str(newest)
    elif checkpoint is not None and (why := why_incomplete(Path(checkpoint), read=True)) is not None:
        raise FileNotFoundError(
            f"No checkpoint to resume from in {checkpoint}: {why}; expected a folder checkpoint-N with complete.json, "
            "which is written last. Check the path, or give --resume_from_checkpoint without a value to take the "
            "newest whole one."
        )
    elif checkpoint is not None:
        elsewhere = Path(checkpoint).resolve().parent != (output_dir / CHECKPOINTS).resolve()
    _refuse_harm(args, output_dir)
    fills = (checkpoint is None or elsewhere) and not args.overwrite_output
    if fills:
        _refuse_filled(output_dir)
    args.made = not output_dir.exists()
    try:
        (output_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=named is not None or checkpoint is not None)
        args.lock = lock_folder(output_dir, "--output_dir")
    except OSError as error:
        raise type(error)(
            f"The output folder {output_dir} cannot be written ({error.strerror}); expected a folder of yours. Name "
            "another --output_dir."
        ) from error
    if fills:  # once more: another run may just have ended
        _refuse_filled(output_dir)
    if launch:
        with whole_file(output_dir / LAUNCH) as path:
            path.write_text(json.dumps(launch))
    return str(output_dir), checkpoint


def _began_here(output_dir: Path, launch: list[list]) -> bool:
    """Whether an earlier attempt of the same launch began its run in a folder: one of its launchers is still there."""
    try:
        before = json.loads((output_dir / LAUNCH).read_text())
    except (OSError, ValueError):
        return False
    return any(ours[:2] == theirs[:2] and abs(ours[2] - theirs[2]) < 60 for ours in launch for theirs in before)


def _leave_no_empty_folder(args: TextArguments) -> None:
    """Removes the folder that a run made and wrote nothing into."""
    folder = Path(args.run_dir)
    if args.made and not any(path.is_file() and path.name not in (LOCK, LAUNCH) for path in folder.rglob("*")):
        args.lock.release()
        shutil.rmtree(folder)
        for parent in folder.parents[:-1] if folder.parts[0] == "runs" else ():
            if not any(parent.iterdir()):
                parent.rmdir()


def _refuse_filled(output_dir: Path) -> None:
    if any(path.is_file() and path.name not in (LOCK, LAUNCH) for path in output_dir.rglob("*")):
        raise FileExistsError(
            f"The output folder {output_dir} is not empty; expected a new or empty one. Name another --output_dir, or "
            "give --resume_from_checkpoint or --overwrite_output."
        )


def _refuse_harm(args: TextArguments, output_dir: Path) -> None:
    """Refuses an output folder in the data, and to overwrite what the run reads."""
    data = [args.dataset_name, *args.data_files]
    refuse_inside(output_dir, data, "--output_dir")
    others = [getattr(args, name, None) for name in ("probes", "teacher", "plain_run")]
    read = [*data, args.model_name_or_path, *others] if args.overwrite_output else []
    removed = removed_by_overwriting(str(output_dir))
    for source in [Path(value).expanduser().resolve() for value in read if value]:
        if source == output_dir.resolve() or any(source.is_relative_to(path.resolve()) for path in removed):
            raise ValueError(
                f"Found --overwrite_output with {source}, which is read, in the output folder {output_dir}; expected "
                "it elsewhere, since it would be removed. Name another --output_dir."
            )
    theirs = [path for path in removed if path.exists()]
    signs = [*(output_dir / name for name in (LOCK, RECORD, RESULTS)), *output_dir.glob(f"{CHECKPOINTS}/checkpoint-*")]
    if args.overwrite_output and theirs and not any(sign.exists() for sign in signs):
        raise ValueError(
            f"Found --overwrite_output with {theirs[0]}, which would be removed, in a folder without a sign of a "
            "run; expected the folder of one. Name another --output_dir, or remove it yourself."
        )
