"""Tables and figures that are made from results."""

from typing import TYPE_CHECKING

from cnnmod.records.lazy import lazy

if TYPE_CHECKING:
    from cnnmod.report.experiment_table import experiment_cells
    from cnnmod.report.figure import four_panels, measured_panels
    from cnnmod.report.network_table import network_cells
    from cnnmod.report.prediction import prediction_figure
    from cnnmod.report.selection import selection_figure
    from cnnmod.report.table import Cells, comparison_cells, selection_cells

__all__ = [
    "Cells",
    "comparison_cells",
    "experiment_cells",
    "four_panels",
    "measured_panels",
    "network_cells",
    "prediction_figure",
    "selection_cells",
    "selection_figure",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "cnnmod.report.experiment_table": ["experiment_cells"],
            "cnnmod.report.figure": ["four_panels", "measured_panels"],
            "cnnmod.report.network_table": ["network_cells"],
            "cnnmod.report.prediction": ["prediction_figure"],
            "cnnmod.report.selection": ["selection_figure"],
            "cnnmod.report.table": ["Cells", "comparison_cells", "selection_cells"],
        },
    )
