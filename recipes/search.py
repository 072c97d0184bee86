"""A search over the knobs of a recipe that matter, with Optuna (pip install optuna), and a word on what it brought.

Learning rate, epochs, batch, pooling, layer decay, start of the head, contrastive steps and dropout are drawn; what is
given stays as it is. Each trial is judged by the rows to choose by, and cut short where others did better; none reads
a reported row. A search that was killed goes on by the same command, one that ended by more --trials or --minutes.
Run:  accelerate launch --quiet recipes/search.py recipes/csv_finetune.py --train_file mine.csv --minutes 30
      python recipes/search.py recipes/sst2_finetune.py --sample --trials 8 --knobs learning_rate num_train_epochs
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # as in the recipes

import re
import shlex
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from bertcls.process import OptionParser, one_line_errors, say
from bertcls.report.compare import compare_arms, describe_choice, describe_differences, load_arm
from bertcls.together import from_rank_0
from bertcls.training.launch import parse_runs
from bertcls.training.plan import CHOOSE_BY_SCORE
from bertcls.training.search import Watch, as_words, judge, load_recipe, make_knobs, search_folder, watched_run
from bertcls.training.study import Study, write_search

WHOLE = "--resume_from_checkpoint --report true --push_to_hub false".split()  # runs at the end
FOLDS = 5  # where fewer rows to choose by than an accuracy needs
OWN = "resume_from_checkpoint overwrite_output fold train_sizes report no_report push_to_hub".split()  # not of these


def read(argv: list[str]) -> tuple[Namespace, list[str]]:
    """The options of the search, and those of the recipe."""
    parser = OptionParser(__doc__)
    parser.add_argument("recipe", help="file of a fine-tuning recipe; its own options follow")
    parser.add_argument("--trials", type=int, help="trials to make; none: 20, or as many as --minutes leaves")
    parser.add_argument("--minutes", type=float, help="after so many of all trials together no other one begins")
    parser.add_argument("--knobs", nargs="+", help="what to search; none: every knob that is not given")
    parser.add_argument(
        "--folds", type=int, help="a trial is judged by their mean; none: 5 where rows are few; 0: never"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the trials and of what is drawn")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the runs of the best at the end")
    parser.add_argument("--output_dir", help="folder of the search; none: runs/search-RECIPE")
    argv = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in argv]
    options, words = parser.parse_known_args(argv)
    options.given = {word.split("=")[0][2:] for word in words if word.startswith("--")}
    for name, fits, wanted in (
        ("trials", lambda value: value >= 1, "1 or more"),
        ("folds", lambda value: value >= 2 or value == 0, "2 or more, or 0 for none"),
        ("minutes", lambda value: value > 0, "more than 0"),
    ):
        if (value := getattr(options, name)) is not None and not fits(value):
            raise ValueError(f"Found --{name} {value:g}; expected {wanted}. Raise it.")
    wrong = [seed for seed in (options.seed, *options.seeds) if seed not in range(2**32)]
    if wrong or len({*options.seeds}) < len(options.seeds):
        raise ValueError("Found --seed or --seeds out of range, or one twice; expected numbers from 0 below 2**32.")
    if other := [name for name in OWN if name in options.given]:
        raise ValueError(f"Found --{other[0]} with a search; expected it left out, since each trial is a run anew.")
    options.trials = 20 if options.trials is None and options.minutes is None else options.trials
    options.output_dir = Path(options.output_dir or f"runs/search-{Path(options.recipe).stem}")
    return options, words


def main(options: Namespace, words: list[str]) -> dict:
    recipe, folder = load_recipe(options.recipe), options.output_dir
    with search_folder(folder) as scratch:
        # 1. What the recipe does by itself; where it has few rows to choose by, folds judge a trial
        look, run = Watch(), partial(watched_run, recipe, folder=scratch)
        seed = ["--seed", str(options.seed)]
        run([*words, *seed], look)
        few = look.plan["rows"].get("validation", 0) < CHOOSE_BY_SCORE and not look.args.phrases
        if options.folds and look.args.phrases:
            raise ValueError("Found --folds with --phrases, whose parts would stand in several; give --folds 0.")
        if folds := (FOLDS if few else 0) if options.folds is None else options.folds:
            run([*words, *seed], look, fold=f"validation-1/{folds}")
        plan = look.plan
        if plan["metric"] is None or not plan["rows"].get("validation"):
            raise ValueError("Found no score to choose by; expected rows for it, without --eval_strategy no.")

        # 2. The knobs with their ranges, and the study, which may have begun before
        knobs = make_knobs(plan, look.args, options.given)
        if unknown := [name for name in options.knobs or [] if name not in knobs]:
            raise ValueError(
                f"Found --knobs {unknown[0]}, which is given, does nothing here, or is no knob of {options.recipe}; "
                f"expected some of {', '.join(knobs)}. Correct it."
            )
        knobs = {name: knobs[name] for name in options.knobs or knobs}
        made_of = {
            "recipe": recipe.version,
            "options": words,
            "knobs": [*knobs],
            "folds": folds,
            "seed": options.seed,
        }
        made_of |= {"metric": plan["metric"]} | plan["made_of"]
        study = Study(folder, made_of, knobs, greater_is_better=plan["greater_is_better"], seed=options.seed)
        judged = f"over {folds} folds" if folds else f"of {plan['rows']['validation']:,} rows"
        say(f"Searching {', '.join(knobs)} by {plan['metric']} {judged}; what trials print is in {folder}/trials.log.")

        # 3. The trials, the recipe's defaults first; one that fails is left behind
        run = partial(run, log=folder / "trials.log")
        by = {name: plan[name] for name in ("metric", "greater_is_better", "last")}
        while (drawn := study.ask(options.trials, options.minutes)) is not None:
            started, result = time.time(), (None,)
            try:
                its_own = [*words, *seed, *as_words(drawn, plan["contrastive_steps"])]
                result = judge(run, its_own, **by, folds=folds, keep_going=study.keep_going)
            except ValueError as error:
                if not drawn:
                    raise
                say(error)
            say(study.tell(time.time() - started, *result))

        # 4. The defaults and the best with several seeds, scored on rows that no trial has seen
        found = study.found()
        from_rank_0(lambda: write_search(folder, plan, found))  # whatever becomes of the runs
        rows = [found["defaults"], *([] if found["best"]["defaults"] else [found["best"]])]
        own = [[] if row["defaults"] else as_words(row["knobs"], plan["contrastive_steps"]) for row in rows]
        places = [folder / "final" / f"trial-{row['number']}" for row in rows]
        told = {"defaults": recipe.DEFAULTS, "sample": getattr(recipe, "SAMPLE", None)}
        for place, its_own in zip(places, own):
            for number in options.seeds:
                if study.is_done(place / f"seed-{number}"):
                    continue
                end = ["--seeds", str(number), "--output_dir", str(place), *WHOLE]
                sys.argv = [options.recipe, *words, *its_own, *end]  # for the record of the run
                for args, training_args in parse_runs(recipe.arguments, sys.argv[1:], **told):
                    recipe.main(args, training_args)
                study.set_done(place / f"seed-{number}")

        # 5. What it brought
        return from_rank_0(lambda: tell(found, rows, places, plan, folds, options, [*words, *own[-1]]))


def tell(found: dict, rows: list, places: list, plan: dict, folds: int, options: Namespace, words: list) -> dict:
    """Figure, numbers and words: which knobs, whether they are better beyond noise, and how to have them again."""
    names = ["the recipe's defaults", *(f"trial {row['number']}" for row in rows[1:])]
    arms = [load_arm(str(place), name, options.seeds) for place, name in zip(places, names)]
    ends, by = [(row["scores"], arm) for row, arm in zip(rows, arms)], (plan["metric"], plan["greater_is_better"])
    choice = describe_choice(ends[0], ends[-1], *by, trials=len(found["trials"]), folds=folds)
    verdict = describe_differences(arms, compare_arms(arms)) or "No trial was better than the recipe's defaults."
    command = ["accelerate", "launch", "--quiet", options.recipe, *words, "--seeds", *map(str, options.seeds)]
    command, folder = shlex.join(command), options.output_dir
    write_search(folder, plan, facts := {"verdict": verdict, "command": command, "choice": choice} | found)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["importance"].items())
    say(f"Importance: {shares}." if shares else "Too few trials came to their end to weigh the knobs.")
    say(f"{choice['said']}\n{verdict}\nThe best is in {places[-1]}:\n  {command}\nSee {folder / 'search.png'}.")
    return facts


if __name__ == "__main__":
    with one_line_errors(
        explain=lambda error: "The same command goes on." if isinstance(error, KeyboardInterrupt) else None
    ):
        main(*read(sys.argv[1:]))
