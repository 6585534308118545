"""The targets: one object for each way to run a lowered network."""

from cnnmod.deploy.targets.table import TARGETS, register_target
from cnnmod.deploy.targets.target import FileTarget, Loaded, Target

__all__ = [
    "TARGETS",
    "FileTarget",
    "Loaded",
    "Target",
    "register_target",
]
