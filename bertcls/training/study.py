"""The trials of a search in a file, which outlives a kill; Optuna draws them, on the first process alone."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertcls.layout import RESULTS, STUDY
from bertcls.process import say, whole_file
from bertcls.together import from_rank_0
from bertcls.training.search import as_words

_UNPRUNED = 4  # trials, before one is cut short
_DRAWN = 8  # trials at random, before what they found leads
_CUT_OFF = 3  # times, after which a trial is left behind: it may be what ends the search, as for want of memory
_FEWEST_TO_WEIGH = 6  # trials that came to their end, of which knobs are weighed


def _on_rank_0(method: Callable) -> Callable:
    return functools.wraps(method)(lambda self, *args, **options: from_rank_0(lambda: method(self, *args, **options)))


class Study:
    """The trials of a search; what a kill cut off is tried again.

    What is drawn follows from the seed and the trials before, so that a search that was killed goes on as it would
    have gone. Every process makes one and calls the same methods.

    `made_of` is what it was started with, and the same when it goes on; `knobs` are as `make_knobs` gives them.

    Raises:
        ValueError: the folder holds a search of other options, or no knob is left.
    """

    def __init__(self, folder: Path, made_of: dict, knobs: dict, *, greater_is_better: bool, seed: int):
        if not knobs:
            raise ValueError("Found every knob given; expected one or more to search. Leave one out.")
        self.seed, self.defaults = seed, {name: default for name, (default, _) in knobs.items()}
        self.ranges = {name: values for name, (_, values) in knobs.items()}
        self._open(folder, made_of, "maximize" if greater_is_better else "minimize")

    @_on_rank_0
    def _open(self, folder: Path, made_of: dict, direction: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, states = optuna, optuna.trial.TrialState
        self.study = optuna.create_study(
            storage=f"sqlite:///{(folder / STUDY).resolve()}",
            study_name="search",
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_min_trials=_UNPRUNED),
            load_if_exists=True,
        )
        before = self.study.user_attrs.get("made_of")
        for name in made_of if before else ():
            if before.get(name) != made_of[name]:
                raise ValueError(
                    f"Found a search in {folder} with {name} {before.get(name)}, and not {made_of[name]}; expected "
                    "the same, with which it goes on. Give them again, or name another --output_dir."
                )
        if before is None:
            self.study.enqueue_trial(self.defaults, user_attrs={"defaults": True}, skip_if_exists=True)
            self.study.set_user_attr("made_of", made_of)
        for trial in self.study.get_trials(states=[states.RUNNING]):  # a kill cut it off
            first, cut_off = trial.user_attrs.get("defaults", False), trial.user_attrs.get("cut_off", 0) + 1
            if first or cut_off < _CUT_OFF:
                told = {"defaults": first, "cut_off": cut_off}
                self.study.enqueue_trial(self.defaults if first else trial.params, user_attrs=told)
            else:
                say(f"trial {trial.number} was cut off {_CUT_OFF} times, and is left behind: {as_words(trial.params)}")
                self.study.set_user_attr("left_behind", self.study.user_attrs.get("left_behind", 0) + 1)
            self.study.tell(trial.number, state=states.FAIL)

    @_on_rank_0
    def ask(self, trials: int | None, minutes: float | None) -> dict | None:
        """Knobs of the next trial, none for the recipe as it is; `None` where there were enough trials or minutes."""
        ended = self._ended()
        minutes_spent = sum(trial.user_attrs["seconds"] for trial in ended) / 60
        if (trials is not None and len(ended) >= trials) or (minutes is not None and minutes_spent >= minutes):
            return None
        seed = self.seed + len(ended) + self.study.user_attrs.get("left_behind", 0)
        self.study.sampler = self.optuna.samplers.TPESampler(n_startup_trials=_DRAWN, seed=seed)
        self.trial = self.study.ask(self.ranges)
        return {} if self.trial.user_attrs.get("defaults") else self.trial.params

    @_on_rank_0
    def keep_going(self, score: float, step: int) -> bool:
        """Whether a trial with this score is worth its next epoch, or fold."""
        self.trial.report(score, step)
        return not self.trial.should_prune()

    @_on_rank_0
    def tell(self, seconds: float, score: float | None, scores: dict | None = None, pruned: bool = False) -> str:
        """Ends a trial, without a score one that failed; gives a line about it."""
        states = self.optuna.trial.TrialState
        state = states.FAIL if score is None else states.PRUNED if pruned else states.COMPLETE
        self.trial.set_user_attr("scores", scores)
        self.trial.set_user_attr("seconds", seconds)  # last: it ended by itself
        self.study.tell(self.trial, score if state == states.COMPLETE else None, state=state)
        how = "failed" if score is None else f"{score:.4f}{' when it was cut short' if pruned else ''}"
        knobs = ["the recipe's defaults"] if self.trial.user_attrs.get("defaults") else as_words(self.trial.params)
        told = f"{how}, {seconds:.0f} s, best {self.study.best_value:.4f} of trial {self.study.best_trial.number}"
        return f"trial {self.trial.number}: {told}: {' '.join(knobs)}"

    @_on_rank_0
    def found(self) -> dict:
        """All `trials`, of them the `best` and the recipe's `defaults`, and the `importance` of each knob."""
        ended, importance = self._ended(), {}
        scores = [trial.value for trial in ended if trial.state == self.optuna.trial.TrialState.COMPLETE]
        if len(scores) >= _FEWEST_TO_WEIGH and np.ptp(scores) > 0:
            importance = self.optuna.importance.get_param_importances(self.study)
        told = {
            trial.number: {
                "number": trial.number,
                "defaults": trial.user_attrs.get("defaults", False),
                "state": trial.state.name.lower(),
                "score": trial.value,
                "knobs": trial.params,
            }
            | {name: trial.user_attrs[name] for name in ("scores", "seconds")}
            for trial in ended
        }
        return {
            "trials": [*told.values()],
            "best": told[self.study.best_trial.number],
            "defaults": next(row for row in told.values() if row["defaults"] and row["state"] == "complete"),
            "importance": {name: float(share) for name, share in importance.items()},
        }

    @_on_rank_0
    def is_done(self, run: Path) -> bool:
        """Whether a run at the end, `trial-3/seed-1`, is there whole."""
        return "/".join(run.parts[-2:]) in self.study.user_attrs.get("done", []) and (run / RESULTS).is_file()

    @_on_rank_0
    def set_done(self, run: Path) -> None:
        self.study.set_user_attr("done", [*self.study.user_attrs.get("done", []), "/".join(run.parts[-2:])])

    def _ended(self) -> list:
        """Trials that ended by themselves; one that a kill cut off in the last moment failed with scores."""
        fail = self.optuna.trial.TrialState.FAIL
        told = [trial for trial in self.study.get_trials() if "seconds" in trial.user_attrs]
        return [trial for trial in told if trial.state != fail or trial.user_attrs["scores"] is None]


def write_search(folder: Path, plan: dict, facts: dict) -> None:
    """`search.json`, with what `Study.found` tells, and the figure of the trials."""
    from bertcls.report.figures import draw_search

    with whole_file(folder / "search.json") as path:
        path.write_text(json.dumps(facts | {"plan": plan}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    how = {"rising": plan["greater_is_better"]}
    draw_search(facts["trials"], facts["importance"], plan["metric"], folder / "search.png", **how)
