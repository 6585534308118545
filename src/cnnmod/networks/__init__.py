"""The paper's networks; importing this registers them with timm."""

from cnnmod.networks.build import build
from cnnmod.networks.paper import PaperRow, paper_rows
