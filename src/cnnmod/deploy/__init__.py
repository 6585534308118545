"""Convert a trained network into a form that runs fast in a runtime."""

from cnnmod.deploy.export import export
from cnnmod.deploy.export_report import ExportReport
from cnnmod.deploy.lower import lower
from cnnmod.deploy.parity import Agreement
from cnnmod.deploy.start import start
from cnnmod.deploy.targets import FileTarget, Target, register_target

__all__ = [
    "Agreement",
    "ExportReport",
    "FileTarget",
    "Target",
    "export",
    "lower",
    "register_target",
    "start",
]
