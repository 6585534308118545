"""The paper's networks; importing this registers them with timm."""

from cnnmod.networks.build import build, build_mod, load
from cnnmod.networks.paper import PaperRow, paper_rows
