"""Measure what a network costs, and compare MoD networks with their baseline and their controls.

Import `cnnmod.measure.experiment` and `cnnmod.measure.selection` explicitly. They need the packages for training.
"""

from cnnmod.measure.compare import compare
from cnnmod.measure.count import Count, count
from cnnmod.measure.results import Comparison, Measurement, Row, read_result, write_result

__all__ = [
    "Comparison",
    "Count",
    "Measurement",
    "Row",
    "compare",
    "count",
    "read_result",
    "write_result",
]
