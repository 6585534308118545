"""The target `cudagraph`: PyTorch on a GPU, captured as a CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.capturable import check_capturable
from cnnmod.deploy.frozen import Frozen
from cnnmod.deploy.outputs import copied
from cnnmod.deploy.targets.eager import EagerTarget

_WARM_UP = 2  # passes before the capture; in the first, torch and the kernels are initialized


class CudaGraphTarget(EagerTarget):
    """Eager PyTorch on a GPU, captured as a CUDA graph for one image shape.

    Starting a graph starts all kernels at once, so Python does not limit the speed at small batches. The MoD blocks
    have the forms of the target `eager`.
    """

    name = "cudagraph"

    def check_images(self, images_NCHW: Tensor) -> None:
        """See `Target.check_images`. A GPU is needed, and for bfloat16 one that computes in bfloat16."""
        available = torch.cuda.is_available()
        on_gpu = available and images_NCHW.is_cuda
        fault = gpu_fault(
            images_NCHW,
            available=available,
            gpu=torch.cuda.get_device_name(images_NCHW.device) if on_gpu else None,
            has_bfloat16=on_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        )
        if fault is not None:
            raise ValueError(fault)

    def counts_memory(self, device: torch.device) -> bool:
        """See `Target.counts_memory`. A graph keeps its memory, and runs no operators that could be observed."""
        return False

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """Capture a pass on images of the example's shape.

        Raises:
            ValueError: If the network is not on the device of the images, depends on values, or needs too much memory.
        """
        self.check_images(example)
        check_device(lowered, example)
        return capture(lowered, example)


class Captured:
    """A network that was captured as a CUDA graph. A call copies the images, replays the graph and copies the outputs.

    Weights of `module` that are changed in place, for example by `load_state_dict`, are used by the next call. If a
    weight or layer is moved or replaced, or a hook is added, the call raises an error. Python code in the network does
    not run again.

    Calls must not overlap on several streams, since they share the memory of the graph.

    Attributes:
        module: The lowered network.

    Args:
        module: The lowered network.
        images_NCHW: The memory from which the graph reads images.
        output: What the network returned at the capture. The graph writes to the memory of its tensors.
        replay: Replays the graph.
    """

    def __init__(self, module: nn.Module, images_NCHW: Tensor, output: Any, replay: Callable[[], object]) -> None:
        self.module = module
        self._images_NCHW, self._output, self._replay = images_NCHW, output, replay
        self._frozen = Frozen(module)

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Return new tensors.

        Raises:
            ValueError: If the images have another shape, dtype or device than the captured images, or the network was
                changed.
        """
        if (fault := images_fault(images_NCHW, self._images_NCHW)) is not None:
            raise ValueError(fault)
        with torch.inference_mode():
            self._images_NCHW.copy_(images_NCHW)
            self._replay()
            output = copied(self._output)
        if (change := self._frozen.change()) is not None:  # checked while the GPU computes
            raise ValueError(f"{change} after the network was captured as a CUDA graph; lower and start it again")
        return output


def capture(network: nn.Module, example: Tensor) -> Captured:
    """Capture one pass of a network on a GPU.

    Raises:
        ValueError: If the capture fails. The error is one line.
    """
    with torch.cuda.device(example.device), torch.inference_mode(), _explained(example):
        images_NCHW = example.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                network(images_NCHW)
            check_capturable(network, images_NCHW)
        torch.cuda.current_stream().wait_stream(stream)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=stream):
                output = network(images_NCHW)
        finally:
            torch.cuda.set_stream(current)  # torch does not restore it after a failed capture
        return Captured(network, images_NCHW, output, graph.replay)


def gpu_fault(images_NCHW: Tensor, *, available: bool, gpu: str | None, has_bfloat16: bool) -> str | None:
    """Return why the target does not run on the images' device, or `None`.

    Args:
        images_NCHW: The images.
        available: Whether torch finds a GPU.
        gpu: The name of the images' GPU, or `None` if they are not on a GPU.
        has_bfloat16: Whether this GPU computes in bfloat16.
    """
    if not available:
        return "cudagraph needs a GPU, but torch finds none; use the runtime 'eager' or 'compile'"
    if gpu is None:
        return (
            f"cudagraph runs on a GPU, but the example is on {images_NCHW.device}; move the example and the networks "
            "with .to('cuda')"
        )
    if images_NCHW.dtype == torch.bfloat16 and not has_bfloat16:
        return f"{gpu} does not compute in bfloat16, which needs compute capability 8.0; use float16 or float32"
    return None


def check_device(network: nn.Module, images_NCHW: Tensor) -> None:
    """Check that all weights are on the images' device.

    Raises:
        ValueError: If one is not. The error names it.
    """
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if value.device != images_NCHW.device:
            raise ValueError(
                f"{name} is on {value.device}, but the images are on {images_NCHW.device}; move the network before it "
                "is lowered"
            )


def images_fault(given: Tensor, captured: Tensor) -> str | None:
    """Return why a graph cannot run on the given images, or `None`."""
    if given.shape == captured.shape and given.dtype == captured.dtype and given.device == captured.device:
        return None
    return (
        f"this CUDA graph takes {_described(captured)}, not {_described(given)}; start the network again with an "
        "example of this kind"
    )


@contextmanager
def _explained(images_NCHW: Tensor) -> Iterator[None]:
    """Raise torch's errors during a capture as `ValueError`s of one line."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException = error
        while isinstance(cause.__context__, RuntimeError):  # ending a failed capture raises a second error
            cause = cause.__context__
        reason = " ".join(str(cause).split()).partition(". ")[0] or type(cause).__name__
        if isinstance(cause, torch.OutOfMemoryError):
            raise ValueError(
                f"not enough GPU memory to capture {_described(images_NCHW)} ({reason}); use a smaller batch"
            ) from error
        raise ValueError(
            f"this network cannot be captured as a CUDA graph ({reason}); use the runtime 'eager' or 'compile'"
        ) from error


def _described(images_NCHW: Tensor) -> str:
    dtype = str(images_NCHW.dtype).removeprefix("torch.")
    return f"{dtype} images of shape {tuple(images_NCHW.shape)} on {images_NCHW.device}"
