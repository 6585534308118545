"""Tables and figures that are made from results."""

from typing import TYPE_CHECKING

from cnnmod.records.lazy import lazy

if TYPE_CHECKING:
    from cnnmod.report.experiment import experiment_table
    from cnnmod.report.figure import four_panels, measured_panels
    from cnnmod.report.network import network_table
    from cnnmod.report.prediction import prediction_figure
    from cnnmod.report.selection import selection_figure
    from cnnmod.report.table import comparison_table, selection_table

__all__ = [
    "comparison_table",
    "experiment_table",
    "four_panels",
    "measured_panels",
    "network_table",
    "prediction_figure",
    "selection_figure",
    "selection_table",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "cnnmod.report.experiment": ["experiment_table"],
            "cnnmod.report.figure": ["four_panels", "measured_panels"],
            "cnnmod.report.network": ["network_table"],
            "cnnmod.report.prediction": ["prediction_figure"],
            "cnnmod.report.selection": ["selection_figure"],
            "cnnmod.report.table": ["comparison_table", "selection_table"],
        },
    )
