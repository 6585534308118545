"""Combinations of options. The quick ones cover every pair of values; all others are marked slow."""

import itertools
from typing import Any

import pytest


def combinations(**options: Any) -> list[Any]:
    """Return all combinations of the options' values, as parameters for `pytest.mark.parametrize`.

    A combination is quick if it has a pair of values that no earlier quick combination has. All others are slow.

    Args:
        options: The values of each option, by name. The values must be hashable.

    Returns:
        One dictionary per combination, with the value of each option.
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
