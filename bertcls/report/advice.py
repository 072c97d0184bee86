"""What to try next: at most three lines that follow from facts of the run."""

import numpy as np
from scipy.stats import entropy

from bertcls.modeling import SINGLE_LABEL

_MOST = 3
_OVER_FITTED = 0.3  # training loss at the end, as a share of that of validation
_FEW_STEPS = 30
_STARVED = 10  # training rows of a class
_CUT_SHARE = 0.1


def advise(facts: dict, log_history: list[dict]) -> list[str]:
    """Lines for people, the most urgent first, from the facts of `write_report` and the log of the Trainer's state."""
    found, task = [], facts["task"]
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    losses = [] if facts.get("distilled") else losses  # which are no losses of labels
    evaluations = [entry for entry in log_history if "eval_loss" in entry and entry["step"] > 0]
    if len(evaluations) > 1 and evaluations[-1]["step"] == evaluations[-2]["step"]:
        del evaluations[-1]  # of the model that was chosen, once more
    shares = task["label_shares"]["train"]
    steps = facts["chosen"]["made"]
    smoothed = facts["arguments"]["label_smoothing_factor"]  # with which no loss comes near 0
    if losses and shares and task["problem_type"] == SINGLE_LABEL and steps >= _FEW_STEPS and not smoothed:
        weighted = np.multiply([*shares.values()], task["class_weights"] or 1)
        constant = weighted.sum() * entropy(weighted)
        if min(losses) > 0.95 * constant:
            found.append(
                f"The training loss hardly fell below that of a constant answer ({constant:.2f}): the learning rate "
                f"{facts['arguments']['learning_rate']:g} does not fit this encoder. Try one a tenth or ten times as "
                "large."
            )
    if worse := [row["name"] for row in facts["baselines"] if row["outcome"] == "worse"]:
        use = "look at the scores of each label" if worse[0].startswith("always answering") else "use it"
        found.append(f"{worse[0]} is better than the encoder beyond noise: {use}, or train longer.")
    if 0 < steps < _FEW_STEPS:
        found.append(f"Only {steps} steps were made: raise --num_train_epochs, or lower the batch size.")
    if len(evaluations) > 1:
        last = evaluations[-1]
        key = "eval_calibrated_loss" if "eval_calibrated_loss" in last else "eval_loss"
        if last[key] == min(entry[key] for entry in evaluations):
            which = "loss" if key == "eval_loss" else "calibrated loss"  # the other may rise
            found.append(
                f"The {which} of the selection rows still fell at the end: more epochs (--num_train_epochs) may help."
            )
        elif losses and losses[-1] < _OVER_FITTED * last["eval_loss"]:
            found.append(
                "Training rows are known by heart and others are not: more rows help most; fewer epochs, "
                "--classifier_dropout or --layer_decay 0.9 may help."
            )
    counts = {name: round(share * task["rows"]["train"]) for name, share in shares.items()}
    starved = [name for name, count in counts.items() if count < _STARVED]
    if starved and max(counts.values()) >= 5 * _STARVED:
        found.append(f"{starved[0]} has {counts[starved[0]]} training rows: label more of it first.")
    if facts["cut"] > _CUT_SHARE:
        contract = facts["model"]["contract"]
        option = "truncation" if contract["pair_truncation"] is None else "pair_truncation"
        windows = "" if contract[option] == "none" else f", or use --{option} none"
        found.append(f"{facts['cut']:.0%} of the tokens are not read: raise --max_length{windows}.")
    if facts.get("suspects"):
        found.append(
            f"{facts['suspects']} labels are answered otherwise by models that did not see them: look at "
            "report/suspects.csv first."
        )
    return found[:_MOST]
