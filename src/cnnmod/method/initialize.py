"""Initialize the weights of a Conv-Block from the same distribution as its host's initial weights.

A Conv-Block is built after the constructor of the host network has initialized its weights, so the distribution must be
inferred from these weights. The known initializer whose standard deviation matches theirs is used. If none matches, for
example for trained weights, the Conv-Block is initialized as in a ResNet.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import init


class Fans(NamedTuple):
    """The fans of a layer, which the initializers use.

    Attributes:
        into: fan-in.
        out: fan-out, over all groups.
        out_of_group: fan-out within one group.
    """

    into: int
    out: int
    out_of_group: int

    @classmethod
    def of(cls, weight: Tensor, groups: int) -> "Fans":
        field = weight[0, 0].numel()
        return cls(weight.shape[1] * field, weight.shape[0] * field, weight.shape[0] * field // groups)


def _normal(weight: Tensor, std: float) -> None:
    init.normal_(weight, std=std)


def _truncated(weight: Tensor, std: float) -> None:
    init.trunc_normal_(weight, std=std)


def _uniform(weight: Tensor, std: float) -> None:
    init.uniform_(weight, -std * math.sqrt(3), std * math.sqrt(3))


# the standard deviation, and a function that draws weights
Initializer = tuple[Callable[[Fans], float], Callable[[Tensor, float], None]]
_INITIALIZERS: tuple[Initializer, ...] = (
    (lambda fans: math.sqrt(2 / fans.out), _normal),  # kaiming_normal_, fan_out, relu: ResNet, VGG
    (lambda fans: math.sqrt(2 / fans.out_of_group), _normal),  # the same, but for each group: timm's EfficientNet
    (lambda fans: 0.02, _truncated),  # ConvNeXt
    (lambda fans: math.sqrt(1 / (3 * fans.into)), _uniform),  # torch's default
    (lambda fans: math.sqrt(2 / fans.into), _normal),  # kaiming_normal_, fan_in, relu
    (lambda fans: math.sqrt(1 / fans.into), _normal),  # LeCun
    (lambda fans: 0.01, _normal),  # the linear layers of torchvision's MobileNets and VGG
)


@torch.no_grad()
def initialize_like(weight: Tensor, groups: int, host_weight: Tensor, host_groups: int) -> None:
    """Initialize the weight of a convolution or linear layer with the initializer that matches `host_weight`."""
    if weight.is_meta:
        return
    std_of, draw = _INITIALIZERS[0]
    if not host_weight.is_meta and host_weight.numel() > 1:
        host_std = host_weight.float().std().item()
        host_fans = Fans.of(host_weight, host_groups)
        errors = [abs(host_std / known_std_of(host_fans) - 1) for known_std_of, _ in _INITIALIZERS]
        standard_error = 1 / math.sqrt(2 * host_weight.numel())
        if min(errors) < 0.01 + 3 * standard_error:
            std_of, draw = _INITIALIZERS[errors.index(min(errors))]
    draw(weight, std_of(Fans.of(weight, groups)))


@torch.no_grad()
def constant_like(tensor: Tensor, host: Tensor, otherwise: float) -> None:
    """Fill with the host's value if all of the host's elements are equal, as in a new layer, else with `otherwise`."""
    if tensor.is_meta:
        return
    is_constant = not host.is_meta and bool((host == host.flatten()[0]).all())
    tensor.fill_(host.flatten()[0].item() if is_constant else otherwise)
