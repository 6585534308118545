"""The operator `mod_block_` on a CPU, compiled on demand from `fused.cpp`, and its form."""

import functools
import hashlib
import logging
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnmod.deploy.forms import Form, Handles
from cnnmod.deploy.operator_form import OperatorForm
from cnnmod.records.errors import first_line
from cnnmod.records.files import user_cache

logger = logging.getLogger("cnnmod")
_LONGEST_BUILD_S = 300


class FusedForm(OperatorForm):
    """The MoD block as one operator for float32 images on a CPU."""

    handles: ClassVar[Handles] = {**Form.handles, "select": ("learned",), "fuse_to": ("first", "last")}

    device_type = "cpu"

    @classmethod
    def runs_on(cls, device: torch.device) -> bool:
        """Return whether the operator is compiled. The first call compiles it."""
        return is_compiled()

    def fits(self, x_NCHW: Tensor, arguments: Sequence[Any]) -> bool:
        """Return whether the images are float32."""
        return x_NCHW.dtype == torch.float32 and _has_operator()


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
        message = "the fused operator cannot be compiled (%s); MoD blocks run as several operators"
        logger.warning(message, first_line(error))
        return False
    return True


def _build_folder(source: Path) -> Path:
    """Return the build folder in the user's cache.

    It depends on the source, the version of torch and the CPU type. It also depends on the path of the source, since
    the operator is built again if the path changes. A lock that a killed build left is deleted.
    """
    platform_id = f"{source} {torch.__version__} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    version = hashlib.sha256(source.read_bytes() + platform_id.encode()).hexdigest()[:16]
    folder = user_cache() / f"fused-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    if lock.exists() and time.time() - lock.stat().st_mtime > _LONGEST_BUILD_S:
        lock.unlink(missing_ok=True)
    return folder
