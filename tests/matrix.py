"""Options in all combinations: by default a few, in which every two options meet; the others behind `-m slow`."""

import itertools
from typing import Any

import pytest


def combinations(**options: Any) -> list[Any]:
    """All combinations of the options' values, as parameters for `pytest.mark.parametrize`.

    A combination is quick if it holds two values that no earlier quick one holds together; all others are slow.

    Args:
        options: For each name its values, which are hashable.

    Returns:
        One dictionary per combination, with each option's value.
    """
    cases = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    left = {pair for case in cases for pair in _pairs(case)}
    quick = []
    while left:
        quick.append(max(cases, key=lambda case: len(left & _pairs(case))))
        left -= _pairs(quick[-1])
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]


def _pairs(case: dict[str, Any]) -> set[Any]:
    return set(itertools.combinations(case.items(), 2))
