"""Tables and figures that are made from results."""

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
