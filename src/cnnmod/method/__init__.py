"""The paper's method. It needs only torch and safetensors."""

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.checkpoint import load_, save
from cnnmod.method.choices import Choices, read_plan, write_plan
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import control_, convert_, mod_blocks
from cnnmod.method.discover import find_modules
from cnnmod.method.functional import fuse, gather_channels, select_channels
from cnnmod.method.plan import plan
from cnnmod.method.planned import Plan, PlannedBlock
from cnnmod.method.selector import ChannelSelector
from cnnmod.method.shrink import shrink

__all__ = [
    "ChannelSelector",
    "Choices",
    "MoDBlock",
    "MoDConfig",
    "Plan",
    "PlannedBlock",
    "control_",
    "convert_",
    "find_modules",
    "fuse",
    "gather_channels",
    "load_",
    "mod_blocks",
    "plan",
    "read_plan",
    "save",
    "select_channels",
    "shrink",
    "write_plan",
]
