"""`start(model, runtime, example)`: a network that is ready to run in a runtime."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.lower import lower
from cnnmod.deploy.targets.table import find_runtime
from cnnmod.deploy.targets.target import INT8
from cnnmod.deploy.weights import check_finite


def start(model: nn.Module, runtime: str, example: Tensor, *, channels_last: bool = False) -> Callable[[Tensor], Any]:
    """Lower a network, load it in a runtime, and return a function that runs it.

    The runtime uses as many threads as torch. `"cudagraph"` captures the network for images of the example's shape, and
    `"compile"` compiles it for them. The outputs of both are new tensors.

    Args:
        model: Any network. It is not changed.
        runtime: A target, such as `"openvino"`, or a target with a precision, such as `"openvino-int8"`.
        example: Images (N, C, H, W) with the batch size that will be run. INT8 is calibrated on them.
        channels_last: Whether to use the channels-last memory format. Only runtimes in PyTorch use it.

    Raises:
        ValueError: If the runtime is unknown, the network cannot be lowered, exported or captured, or the runtime does
            not run on the device or in the dtype of the images.
        ModuleNotFoundError: If a package that the runtime needs is not installed.

    Examples:
        >>> import timm
        >>> run = start(timm.create_model("resnet18"), "eager", torch.rand(1, 3, 64, 64))
        >>> run(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """
    target, precision = find_runtime(runtime)
    target.check_images(example)
    if precision == INT8:
        check_finite(model)
    lowered = lower(model, target.name, example=example[:1])
    if channels_last:
        lowered.to(memory_format=torch.channels_last)
    return target.start(lowered, example, precision)
