"""From a trained network to one that its runtime runs fast."""

from cnnmod.deploy.export import ExportReport, export
from cnnmod.deploy.lower import lower
from cnnmod.deploy.parity import Agreement

__all__ = [
    "Agreement",
    "ExportReport",
    "export",
    "lower",
]
