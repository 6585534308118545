"""The kernels of mod_block.cu on the CPU: the same source, compiled by g++, with loops instead of threads."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from cnnmod.deploy.cuda import block, kernels
from cnnmod.deploy.cuda.arguments import Arguments
from cnnmod.deploy.cuda.plan import Limits

HERE = Path(__file__).parent
H100 = Limits(shared_bytes=227 * 1024, multiprocessors=132)
HAS_COMPILER = shutil.which("g++") is not None


@functools.cache
def library(dtype, flags=("-O1",)):
    """Compile the kernels for one data type."""
    folder = Path(tempfile.mkdtemp(prefix="cnnmod-host-"))
    names = [HERE / "host_threads.h", Path(kernels.__file__).with_name("mod_block.cu"), HERE / "host_launch.h"]
    source = "".join(f'#include "{name}"\n' for name in names)
    (folder / "kernels.cpp").write_text(source)
    command = ["g++", "-std=c++17", "-shared", "-fPIC", *flags, *kernels.defines(dtype)]
    subprocess.run([*command, "kernels.cpp", "-o", "kernels.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


class Host:
    """Launches kernels on the CPU, and keeps their names.

    Args:
        backward: Whether all loops run backward.
        limits: The limits of the GPU that is imitated.
    """

    def __init__(self, backward=False, limits=H100):
        self.backward, self.limits, self.names = backward, limits, []

    def launch(self, launches, arguments, dtype, device):
        for each in launches:
            grid = (ctypes.c_int * 3)(*each.grid)
            assert each.threads % 32 == 0
            assert 0 < each.threads <= 1024
            assert each.shared_bytes <= self.limits.shared_bytes
            status = library(dtype).run_kernel(
                *(each.kernel.encode(), ctypes.byref(arguments), ctypes.sizeof(Arguments), grid, each.threads),
                *(each.shared_bytes, self.backward),
            )
            assert status == 0
            self.names.append(each.kernel)

    def limits_of(self, device):
        return self.limits

    def mod_block_(self, x_NCHW, *arguments):
        block.mod_block_(x_NCHW, *arguments, launch=self.launch, limits=self.limits_of)
