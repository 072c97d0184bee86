"""Numbers and names as people read them, the same in the report, the model card and the console."""

import math

from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL

MEASURES = {  # of a row, of which baselines and slices show the mean
    SINGLE_LABEL: "accuracy",
    MULTI_LABEL: "share of texts with exactly the right labels",
    REGRESSION: "mean absolute error",
}
SCORES = {  # as the report shows them: their names, and their types in the metadata of the Hub
    "accuracy": ("accuracy", "accuracy"),
    "pearson": ("Pearson correlation", "pearsonr"),
    "spearman": ("Spearman correlation", "spearmanr"),
    "r2": ("R²", "r_squared"),
    "rmse": ("RMSE", "rmse"),
    "mae": ("mean absolute error", "mae"),
    "f1_micro": ("F1 micro", "f1"),
    "f1_macro": ("F1 macro", "f1"),
    "precision_macro": ("precision macro", "precision"),
    "recall_macro": ("recall macro", "recall"),
    "window_accuracy": ("accuracy per window", "accuracy"),
    "vote_accuracy": ("accuracy per document by vote", "accuracy"),
    "log_loss": ("log loss", "log_loss"),
}
BETTER, UNSURE, WORSE = "better", "cannot tell", "worse"  # what a comparison can end in
MANY_CLASSES = 50  # beyond, figures and tables show some of them, and files of their own have all
SHADED, STRONG = 0.05, 0.6  # of what the strongest word adds: from there on a word is coloured, and bold
ERRORS = ("rmse", "mae")  # scores in the unit of the labels
_AVERAGED = {f"{score}_{how}" for score in ("precision", "recall", "f1") for how in ("micro", "macro", "weighted")}


def score_names(scores: dict, kind: str) -> dict[str, str]:
    """What the scores of a run are called, in the order in which they are shown; metrics of one's own come last.

    >>> score_names({"test_accuracy": 0.5, "test_accuracy_low": 0.4, "test_mcc": 0.1, "test_samples": 9}, SINGLE_LABEL)
    {'accuracy': 'accuracy', 'mcc': 'mcc'}
    """
    known = {score: name for score, (name, _) in SCORES.items()} | {"accuracy": MEASURES.get(kind, "accuracy")}
    numbers = [key[5:] for key, value in scores.items() if key.startswith("test_") and isinstance(value, float)]
    ends = {f"{key}_{end}" for key in numbers for end in ("low", "high")}
    own = {key: key.replace("_", " ") for key in numbers if key not in SCORES and key not in ends | _AVERAGED}
    shown = (known | own).items()
    return {key: name for key, name in shown if any(f"{when}_{key}" in scores for when in ("test", "eval", "before"))}


def as_cell(value: object) -> object:
    """What a spreadsheet would run as a formula gets a mark.

    >>> as_cell("=1+1"), as_cell("a"), as_cell(-1)
    ("'=1+1", 'a', -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def outcome(difference: float, p_value: float, *, level: float = 0.05) -> str:
    """What a difference means that is above 0 where the first of two is better.

    >>> outcome(0.1, 0.01), outcome(-0.1, 0.01), outcome(-0.1, 0.4)
    ('better', 'worse', 'cannot tell')
    """
    return UNSURE if p_value >= level or not difference else BETTER if difference > 0 else WORSE


def format_score(value: float, rows: int | None, *, error: bool = False) -> str:
    """A score with as many decimals as the standard error on so many rows supports; an error by its own size.

    >>> format_score(0.73737, 198), format_score(0.86101, 872), format_score(0.86101, 60_000), format_score(0.5, None)
    ('0.74', '0.861', '0.8610', '0.5000')
    >>> format_score(1234.5, 198, error=True), format_score(0.0012345, 198, error=True)
    ('1,234', '0.00123')
    """
    decimals = 4 if rows is None or rows > 50_000 else 3 if rows >= 500 else 2
    if error and value and math.isfinite(value):
        decimals = max(decimals - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def shown_splits(by_split: dict, reported: str | None) -> dict:
    """What belongs to train, validation and test under the names that the report has for these rows."""
    names = {"validation": "selection", "test": reported or "test"}
    return {names.get(split, split): value for split, value in by_split.items()}


def format_p(value: float, sign: str = "") -> str:
    """A p-value, in a sentence behind a sign.

    >>> format_p(0.00004), format_p(0.0042), format_p(0.3), format_p(0.3, "= "), format_p(0.00004, "= ")
    ('< 0.0001', '0.0042', '0.30', '= 0.30', '< 0.0001')
    """
    return "< 0.0001" if value < 0.0001 else sign + (f"{value:.4f}" if value < 0.01 else f"{value:.2f}")


def format_value(value: float) -> str:
    """A label that is a number, or a prediction of it.

    >>> format_value(2019.4), format_value(3.98765), format_value(0.00012345)
    ('2,019.40', '3.988', '0.0001234')
    """
    return f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(42.4), format_duration(250), format_duration(9000)
    ('42 seconds', '4.2 minutes', '2.5 hours')
    """
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
