"""The MoD block as one operator for inference on a CPU. The operator is compiled on demand from `fused.cpp`."""

import functools
import hashlib
import logging
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnmod.deploy.forms import EagerForm, Form, Handles
from cnnmod.deploy.live import DirectLayers, has_plain_selector, is_plain_tensor, selector_weights
from cnnmod.deploy.program import NoProgramError, read_program
from cnnmod.method.blocks import MoDBlock

logger = logging.getLogger("cnnmod")
_LONGEST_BUILD_S = 300
_NO_BIAS = torch.empty(0)


class FusedForm(EagerForm):
    """The MoD block for eager PyTorch and torch.compile. It is one operator for float32 images on a CPU, else several.

    It supports Conv-Blocks of convolutions with stride 1, ReLUs, ReLU6s and sums, such as those of ResNets and
    MobileNetV2.
    """

    handles: ClassVar[Handles] = {**Form.handles, "select": ("learned",), "fuse_to": ("first", "last")}

    def __init__(self, block: MoDBlock) -> None:
        program = read_program(block.conv_block, block.k)  # read before convolutions are replaced by products
        super().__init__(block)
        self.layers = tuple(self.conv_block.get_submodule(name) for name in program.layers)
        self.program = (program.steps, program.registers, self.k, block.config.order == "index", self.start)
        self.direct_layers = DirectLayers(self, "selector", "conv_block")

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """See `Form.accepts`. The block must be on a CPU. The first call compiles the operator."""
        if not (super().accepts(block) and has_plain_selector(block) and block.selector.reduce.weight.is_cpu):
            return False
        try:
            read_program(block.conv_block, block.k)
        except NoProgramError:
            return False
        return is_compiled()

    def forward(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → a new tensor."""
        if torch.compiler.is_compiling() and self._fits(x_NCHW, args, kwargs):
            arguments = self.arguments()
            if arguments is not None:
                x_NCHW = x_NCHW.clone()  # the compiler removes unnecessary copies
                torch.ops.cnnmod.mod_block_(x_NCHW, *arguments)
                return x_NCHW
        return super().forward(x_NCHW, *args, **kwargs)

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed in place. The caller must hold its only reference."""
        if self._fits(x_NCHW, args, kwargs) and (arguments := self.arguments()) is not None:
            torch.ops.cnnmod.mod_block_(x_NCHW, *arguments)
            return x_NCHW
        return super().overwrite(x_NCHW, *args, **kwargs)

    def arguments(self) -> Sequence[Any] | None:
        """Return the operator's arguments after the images, with the current weights.

        Return `None` if the block's layers are no longer plain layers.
        """
        if not self.direct_layers.are_unchanged() or (selector := selector_weights(self)) is None:
            return None
        parameters = [layer._parameters for layer in self.layers]
        weights = [tensors.get("weight") for tensors in parameters]
        biases = [_NO_BIAS if tensors.get("bias") is None else tensors["bias"] for tensors in parameters]
        if not all(map(is_plain_tensor, (*weights, *biases))) or self.training:
            return None
        return (*selector, self.gain_K, weights, biases, *self.program)

    def _fits(self, x_NCHW: Tensor, args: Any, kwargs: Any) -> bool:
        return (
            x_NCHW.is_cpu
            and x_NCHW.dtype == torch.float32
            and x_NCHW.dim() == 4
            and x_NCHW.size(1) == self.channels
            and x_NCHW.size(2) * x_NCHW.size(3) > 0
            and (x_NCHW.is_contiguous() or x_NCHW.is_contiguous(memory_format=torch.channels_last))
            and not (x_NCHW.requires_grad or args or kwargs)
            and not torch.is_autocast_enabled("cpu")
            and _has_operator()
        )


def _has_operator() -> bool:
    return is_compiled()


# torch.compile would trace the function. `torch.compiler.assume_constant_result` sets the same attribute, but imports
# torch._dynamo, which takes longer than `import torch`.
_has_operator._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]  the attribute is torch's


@functools.cache
def is_compiled() -> bool:
    """Compile the operator once for each machine, and return whether it can be used. Log a warning if it cannot."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of missing CUDA
    from torch.utils.cpp_extension import load

    source = Path(__file__).with_name("fused.cpp")
    try:
        load(
            "cnnmod_fused",
            [str(source)],
            extra_cflags=["-O3", "-march=native", "-fopenmp"],
            build_directory=str(_build_folder(source)),
            is_python_module=False,
        )
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("the fused operator cannot be compiled (%s); MoD blocks run as several operators", reason)
        return False
    torch.library.register_fake("cnnmod::mod_block_", _fake_mod_block_)
    return True


def _fake_mod_block_(x_NCHW: Tensor, *args: Any) -> None:
    if any(isinstance(value, Tensor) and value.device != x_NCHW.device for value in args):
        raise RuntimeError(f"mod_block_: images are on {x_NCHW.device}, but a weight is not")


def _build_folder(source: Path) -> Path:
    """Return the build folder in the user's cache. It depends on the source, the version of torch and the CPU type.

    A lock that a killed build left is deleted.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    platform_id = f"{torch.__version__} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    version = hashlib.sha256(source.read_bytes() + platform_id.encode()).hexdigest()[:16]
    folder = cache / "cnnmod" / f"fused-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    if lock.exists() and time.time() - lock.stat().st_mtime > _LONGEST_BUILD_S:
        lock.unlink(missing_ok=True)
    return folder
