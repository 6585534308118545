"""start: a network, ready to run in a runtime."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.lower import lower
from cnnmod.deploy.targets.table import find_runtime
from cnnmod.deploy.targets.target import INT8
from cnnmod.deploy.weights import check_finite


def start(model: nn.Module, runtime: str, example: Tensor, *, channels_last: bool = False) -> Callable[[Tensor], Any]:
    """Lower a network to a runtime and load it there, with as many threads as torch has.

    Args:
        model: Any network. It stays as it is.
        runtime: A target, as `"openvino"`, or a target in one of its precisions, as `"openvino-int8"`.
        example: Images (N, C, H, W), of the batch size that will be run; INT8 is calibrated on them.
        channels_last: The memory format, where torch runs.

    Raises:
        ValueError: An unknown runtime, a network that cannot be lowered or exported, or images that are on another
            device than the runtime.
        ModuleNotFoundError: A package that the runtime needs is not installed.

    Examples:
        >>> import timm
        >>> run = start(timm.create_model("resnet18"), "eager", torch.rand(1, 3, 64, 64))
        >>> run(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """
    target, precision = find_runtime(runtime)
    if not target.in_torch and example.device.type != "cpu":
        raise ValueError(f"{runtime} runs on the CPU; give the example and the networks there, not on {example.device}")
    if precision == INT8:
        check_finite(model)
    lowered = lower(model, target.name, example=example[:1])
    if channels_last:
        lowered.to(memory_format=torch.channels_last)
    return target.start(lowered, example, precision)
