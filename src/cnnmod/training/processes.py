"""The processes of a training: one, or as many as torchrun started."""

import torch
from accelerate import PartialState


def all_processes() -> PartialState:
    """Return the index and the device of this process, and the number of processes.

    Without an accelerator, processes communicate through gloo. Accelerate sets this up only with `cpu=True`.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def process_device() -> torch.device:
    """Return the device of this process."""
    device = all_processes().device
    assert device is not None  # accelerate sets it when the state is created
    return device
