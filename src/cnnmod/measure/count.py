"""Count parameters and GMACs without running the network."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnmod.method.passes import Pass
from cnnmod.method.trace import trace
from cnnmod.method.unwrapped import check_unwrapped


@dataclass(frozen=True, slots=True)
class Count:
    """The size of a network or layer.

    Attributes:
        parameters: The number of parameters.
        gmacs: 10⁹ multiply-adds (one multiply-add is one MAC) of convolutions and linear layers, for one image.
    """

    parameters: int
    gmacs: float


def count(model: nn.Module, example: Tensor | None = None) -> Count:
    """Count a network's parameters and multiply-adds.

    The multiply-adds are torch's own count for convolutions and matrix products only. The count of ptflops, the
    paper's tool, is about 1 % higher, since it includes norms, activations and pooling.

    Args:
        model: The network. It is not changed. It runs on its own device only if its forward pass depends on values.
        example: Images (N, C, H, W). Only the first image is used. `None` uses timm's input size, or 224 × 224 pixels.

    Raises:
        ValueError: If the network does not run on the example, or is wrapped.

    Examples:
        >>> import timm
        >>> resnet50 = count(timm.create_model("resnet50"))
        >>> resnet50.parameters, round(resnet50.gmacs, 3)
        (25557032, 4.089)
    """
    return count_modules(model, example)[""]


def count_modules(model: nn.Module, example: Tensor | None = None) -> dict[str, Count]:
    """Count the parameters and multiply-adds of each module, by qualified name. `""` is the whole network."""
    check_unwrapped(model)
    flops = trace(model, _flops, example if example is None else example[:1])
    root = type(model).__name__
    return {
        name: Count(
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            gmacs=flops.get(f"{root}.{name}" if name else "Global", 0) / 2e9,
        )
        for name, module in model.named_modules()
    }


def _flops(run: Pass) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter:
        run()
    return {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
