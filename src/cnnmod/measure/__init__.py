"""What a network costs, and what a MoD network costs beside its baseline and its control.

`cnnmod.measure.experiment` and `.selection` are imported by name, since they need what training needs.
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
