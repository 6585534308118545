"""Base class of the forms that compute a MoD block with the operator `mod_block_`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

import cnnmod.deploy.operator  # noqa: F401  defines the operator
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.live import DirectLayers, has_plain_selector, is_plain_tensor, selector_weights
from cnnmod.deploy.program import NoProgramError, read_program
from cnnmod.method.blocks import MoDBlock


class OperatorForm(EagerForm):
    """The MoD block for eager PyTorch and torch.compile: one operator where the device supports it, else several.

    It supports Conv-Blocks of convolutions with stride 1, ReLUs, ReLU6s and sums, such as those of ResNets and
    MobileNetV2.

    Attributes:
        device_type: The type of the devices on which the operator runs.
    """

    device_type: ClassVar[str]

    def __init__(self, block: MoDBlock) -> None:
        program = read_program(block.conv_block, block.k)  # read before convolutions are replaced by products
        super().__init__(block)
        self.layers = tuple(self.conv_block.get_submodule(name) for name in program.layers)
        start = -1 if self.to_original else self.start
        self.program = (program.steps, program.registers, self.k, block.config.order == "index", start)
        self.direct_layers = DirectLayers(self, "selector", "conv_block")

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """See `Form.accepts`. The operator must be available on the device of the block."""
        if not (super().accepts(block) and has_plain_selector(block)):
            return False
        try:
            read_program(block.conv_block, block.k)
        except NoProgramError:
            return False
        device = block.selector.reduce.weight.device
        return device.type == cls.device_type and cls.runs_on(device)

    @classmethod
    @abstractmethod
    def runs_on(cls, device: torch.device) -> bool:
        """Return whether the operator is available on a device of the type `device_type`."""

    @abstractmethod
    def fits(self, x_NCHW: Tensor, arguments: Sequence[Any]) -> bool:
        """Return whether the operator supports the images, of this data type and shape, with its other arguments.

        The images are on a device of the type `device_type`.
        """

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → a new tensor."""
        if torch.compiler.is_compiling() and (arguments := self._arguments_for(x_NCHW, args, kwargs)) is not None:
            x_NCHW = x_NCHW.clone()  # the compiler removes unnecessary copies
            self.run(x_NCHW, arguments)
            return x_NCHW
        return super().forward(x_NCHW, *args, **kwargs)

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed in place. The caller must hold its only reference."""
        if (arguments := self._arguments_for(x_NCHW, args, kwargs)) is not None:
            self.run(x_NCHW, arguments)
            return x_NCHW
        return super().overwrite(x_NCHW, *args, **kwargs)

    def run(self, x_NCHW: Tensor, arguments: Sequence[Any]) -> None:
        """Run the operator in place."""
        torch.ops.cnnmod.mod_block_(x_NCHW, *arguments)

    def arguments(self) -> Sequence[Any] | None:
        """Return the operator's arguments after the images, with the current weights.

        Return `None` if the block's layers are no longer plain layers.
        """
        if not self.direct_layers.are_unchanged() or (selector := selector_weights(self)) is None:
            return None
        parameters = [layer._parameters for layer in self.layers]
        weights = [tensors.get("weight") for tensors in parameters]
        if not all(map(is_plain_tensor, weights)) or self.training:
            return None
        biases = [tensors.get("bias") for tensors in parameters]
        if not all(bias is None or is_plain_tensor(bias) for bias in biases):
            return None
        no_bias = selector[0].new_empty(0)  # torch.jit.trace has no optionals in lists
        biases = [no_bias if bias is None else bias for bias in biases]
        return (*selector, self.gain_K, weights, biases, *self.program)

    def _arguments_for(self, x_NCHW: Tensor, args: Any, kwargs: Any) -> Sequence[Any] | None:
        """Return the operator's arguments, or `None` if the operator does not support the images or the layers."""
        if not self.is_plain_call(self.device_type, x_NCHW, args, kwargs):
            return None
        arguments = self.arguments()
        return arguments if arguments is not None and self.fits(x_NCHW, arguments) else None
