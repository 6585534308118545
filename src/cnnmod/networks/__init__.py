"""The paper's networks; importing this registers them with timm."""

from cnnmod.networks import classification
