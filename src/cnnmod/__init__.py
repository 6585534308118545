"""CNN Mixture-of-Depths: convolutional networks faster at the same accuracy (Cakaj, Mehnert, Yang, ACCV 2024)."""

from cnnmod.method.blocks import ChannelSelector, MoDBlock
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import control_, convert_, mod_blocks
from cnnmod.method.discover import find_modules
from cnnmod.method.functional import fuse, gather_channels, select_channels
from cnnmod.method.shrink import shrink
