"""Numbers and names as people read them, the same in the report, the model card and the console."""


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
