"""Compile and launch the kernels of `mod_block.cu` with NVRTC and the CUDA driver, which come with torch.

No CUDA compiler is needed on the machine. A kernel is compiled once for each GPU type and data type, and kept in the
user's cache.
"""

import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from cnnmod.deploy.cuda.arguments import Arguments
from cnnmod.deploy.cuda.plan import ALL_PAIRS, MOST_STEPS, Launch, Limits
from cnnmod.records.files import user_cache, write_whole

ELEMENTS = {  # how each data type is named in threads.cuh
    torch.float32: ("ELEMENT_BITS=32",),
    torch.float16: ("ELEMENT_BITS=16",),
    torch.bfloat16: ("ELEMENT_BITS=16", "ELEMENT_BFLOAT16"),
}


def defines(dtype: torch.dtype) -> list[str]:
    """Return the compiler options that define the constants of `mod_block.cu`."""
    constants = (f"MOST_STEPS={MOST_STEPS}", f"ALL_PAIRS={ALL_PAIRS}", f"ARGUMENTS_BYTES={ctypes.sizeof(Arguments)}")
    return [f"-D{constant}" for constant in (*ELEMENTS[dtype], *constants)]


class CudaError(RuntimeError):
    """A call of the CUDA driver or of NVRTC failed."""


@functools.cache
def limits(device: torch.device) -> Limits:
    """Return the limits of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    shared_bytes = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return Limits(shared_bytes, properties.multi_processor_count)


def launch(launches: tuple[Launch, ...], arguments: Arguments, dtype: torch.dtype, device: torch.device) -> None:
    """Launch kernels on torch's current stream of the device."""
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # the driver launches in the context of the current device
            launch(launches, arguments, dtype, device)
        return
    driver = _bindings("driver")
    pointer = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))  # the driver copies the arguments
    stream = torch.cuda.current_stream(device).cuda_stream
    for each in launches:
        function = _function(each.kernel, dtype, device)
        kernel = (function, *each.grid, each.threads, 1, 1, each.shared_bytes, stream, ctypes.addressof(pointer), 0)
        _check(driver.cuLaunchKernel(*kernel))


@functools.cache
def _function(kernel: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a kernel that may use all shared memory."""
    driver = _bindings("driver")
    function = _check(driver.cuModuleGetFunction(_module(dtype, device), kernel.encode()))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _check(driver.cuFuncSetAttribute(function, attribute, limits(device).shared_bytes))
    return function


@functools.cache
def _module(dtype: torch.dtype, device: torch.device) -> Any:
    driver = _bindings("driver")
    return _check(driver.cuModuleLoadData(binary(dtype, torch.cuda.get_device_capability(device))))


def binary(dtype: torch.dtype, capability: tuple[int, int]) -> bytes:
    """Return the kernels, compiled for a data type and a compute capability. No GPU is needed.

    Raises:
        CudaError: If NVRTC does not compile them, for example because it does not know the GPU.
    """
    folder = Path(__file__).parent
    source = (folder / "threads.cuh").read_bytes() + (folder / "mod_block.cu").read_bytes()
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17", *defines(dtype)]
    version = importlib.metadata.version("cuda-bindings")
    name = hashlib.sha256(b"\0".join([source, *map(str.encode, options), version.encode()])).hexdigest()[:16]
    file = user_cache() / f"mod_block-{name}.cubin"
    if file.is_file():
        return file.read_bytes()
    compiled = _compile(source, [option.encode() for option in options])
    write_whole(file, compiled)
    return compiled


def _compile(source: bytes, options: list[bytes]) -> bytes:
    nvrtc = _bindings("nvrtc")
    program = _check(nvrtc.nvrtcCreateProgram(source, b"mod_block.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
            _check(nvrtc.nvrtcGetProgramLog(program, log))
            raise CudaError(log.decode().strip("\0 \n") or status.name)
        compiled = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
        _check(nvrtc.nvrtcGetCUBIN(program, compiled))
        return compiled
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@functools.cache
def _bindings(name: str) -> Any:
    """Return a module of cuda-bindings. It has no types.

    Raises:
        ImportError: If cuda-bindings is not installed.
    """
    return importlib.import_module(f"cuda.bindings.{name}")


def _check(answer: tuple[Any, ...]) -> Any:
    """Return the value of a call's answer, whose first element is a status."""
    status, *values = answer
    if status.value != 0:
        raise CudaError(status.name)
    return values[0] if values else None
