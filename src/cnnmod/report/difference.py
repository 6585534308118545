"""Intervals of means and of their differences."""

import statistics
import warnings
from collections.abc import Sequence

from scipy.stats import t, ttest_ind


def half_interval(one: Sequence[float], other: Sequence[float]) -> float:
    """Return half of the 95 % interval of the difference of two means (Welch's t). It is 0 if neither side
    varies.

    Examples:
        >>> round(half_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 2)
        4.16
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised if one side has the same value in all runs
        interval = ttest_ind(one, other, equal_var=False).confidence_interval()
    return float(interval.high - interval.low) / 2


def half_interval_of_mean(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of a mean (Student's t), or `None` for fewer than two values.

    Examples:
        >>> round(half_interval_of_mean([1.0, 2.0, 3.0]), 2)
        2.48
    """
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def difference_text(one: Sequence[float], other: Sequence[float], digits: int = 2) -> str:
    """Return the difference of two means, followed by half of its interval if there are enough values.

    Examples:
        >>> difference_text([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
        '-2.00 ±4.16'
        >>> difference_text([4.0], [2.0, 4.0])
        '+1.00'
    """
    text = f"{statistics.mean(one) - statistics.mean(other):+.{digits}f}"
    if min(len(one), len(other)) < 2 or len(set(one)) == len(set(other)) == 1:
        return text
    return f"{text} ±{half_interval(one, other):.{digits}f}"
