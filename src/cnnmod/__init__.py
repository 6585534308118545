"""CNN Mixture-of-Depths (Cakaj, Mehnert, Yang, ACCV 2024): convert, train, measure and deploy CNNs."""

from typing import TYPE_CHECKING

from cnnmod.records.lazy import lazy

if TYPE_CHECKING:
    from cnnmod.deploy.export import export
    from cnnmod.deploy.export_report import ExportReport
    from cnnmod.deploy.lower import lower
    from cnnmod.measure.compare import compare
    from cnnmod.measure.count import count
    from cnnmod.measure.results import Comparison
    from cnnmod.method.blocks import MoDBlock
    from cnnmod.method.checkpoint import load_, save
    from cnnmod.method.config import MoDConfig
    from cnnmod.method.convert import control_, convert_, mod_blocks
    from cnnmod.method.discover import find_modules
    from cnnmod.method.functional import fuse, gather_channels, select_channels
    from cnnmod.method.optimize import param_groups
    from cnnmod.method.plan import plan
    from cnnmod.method.planned import Plan
    from cnnmod.method.selector import ChannelSelector
    from cnnmod.method.shrink import shrink
    from cnnmod.tuning.tune import tune

__all__ = [
    "ChannelSelector",
    "Comparison",
    "ExportReport",
    "MoDBlock",
    "MoDConfig",
    "Plan",
    "compare",
    "control_",
    "convert_",
    "count",
    "export",
    "find_modules",
    "fuse",
    "gather_channels",
    "load_",
    "lower",
    "mod_blocks",
    "param_groups",
    "plan",
    "save",
    "select_channels",
    "shrink",
    "tune",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "cnnmod.deploy.export": ["export"],
            "cnnmod.deploy.export_report": ["ExportReport"],
            "cnnmod.deploy.lower": ["lower"],
            "cnnmod.measure.compare": ["compare"],
            "cnnmod.measure.count": ["count"],
            "cnnmod.measure.results": ["Comparison"],
            "cnnmod.method.blocks": ["MoDBlock"],
            "cnnmod.method.checkpoint": ["load_", "save"],
            "cnnmod.method.config": ["MoDConfig"],
            "cnnmod.method.convert": ["control_", "convert_", "mod_blocks"],
            "cnnmod.method.discover": ["find_modules"],
            "cnnmod.method.functional": ["fuse", "gather_channels", "select_channels"],
            "cnnmod.method.optimize": ["param_groups"],
            "cnnmod.method.plan": ["plan"],
            "cnnmod.method.planned": ["Plan"],
            "cnnmod.method.selector": ["ChannelSelector"],
            "cnnmod.method.shrink": ["shrink"],
            "cnnmod.tuning.tune": ["tune"],
        },
        packages=["deploy", "measure", "method", "records", "tuning"],
    )
