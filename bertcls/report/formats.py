"""Numbers and names as people read them, the same in the report, the model card and the console."""

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


def score_names(kind: str) -> dict[str, str]:
    """What the scores of a problem type are called."""
    return {score: name for score, (name, _) in SCORES.items()} | {"accuracy": MEASURES.get(kind, "accuracy")}


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
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
