"""The processes that train together: one, or as many as torchrun started."""

import torch
from accelerate import PartialState


def all_processes() -> PartialState:
    """Which of how many processes this is, and its device; without an accelerator they talk over gloo.

    Accelerate leaves processes on the CPU alone, each for itself, unless it is told that they are on the CPU.
    """
    return PartialState(cpu=not torch.accelerator.is_available())
