"""The paper's networks. Importing this package registers them with cnnmod and with timm.

`import cnnmod` alone does not import timm. `timm.create_model("resnet50_mod")` then raises "Unknown model
(resnet50_mod)". Add `import cnnmod.networks`.
"""

from cnnmod.networks import cifar, classification
from cnnmod.networks.detection import faster_rcnn, retinanet
from cnnmod.networks.from_file import load
from cnnmod.networks.hub import HubNetwork
from cnnmod.networks.paper import PaperRow, paper_rows
from cnnmod.networks.registry import build, build_mod, register
from cnnmod.networks.segmentation import deeplabv3, fcn

__all__ = [
    "HubNetwork",
    "PaperRow",
    "build",
    "build_mod",
    "deeplabv3",
    "faster_rcnn",
    "fcn",
    "load",
    "paper_rows",
    "register",
    "retinanet",
]
