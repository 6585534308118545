"""Where a lowered network runs: one object for each runtime."""

from cnnmod.deploy.targets.table import TARGETS, register_target
from cnnmod.deploy.targets.target import FileTarget, Loaded, Target

__all__ = [
    "TARGETS",
    "FileTarget",
    "Loaded",
    "Target",
    "register_target",
]
