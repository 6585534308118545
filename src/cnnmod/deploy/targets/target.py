"""The interface of targets. A target is a way to run a lowered network."""

import importlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from cnnmod.deploy.description import Description
from cnnmod.deploy.forms import Form
from cnnmod.records.install import install_hint

FLOAT32, INT8 = "float32", "int8"


class Loaded(Protocol):
    """A file that a runtime has loaded."""

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Return the outputs as the runtime returns them. `compare` times this call."""
        ...

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return all outputs, with the names that `named_outputs` gives them.

        After `load(selected=True)`, the selected channels (N, K) of each MoD block are included. Their name is the name
        of the block followed by `SELECTED`.
        """
        ...


class Target(ABC):
    """A runtime for lowered networks.

    To add a runtime, subclass this class or `FileTarget` and register the class with `@register_target`.

    Attributes:
        name: The name that users pass to `lower` and `compare`.
        forms: The supported forms of a MoD block, the fastest first. A block gets the first form that accepts it.
        precisions: The supported precisions other than float32. `"int8"` needs `FileTarget.quantize`.
        packages: The packages that must be installed.
        packages_int8: The packages that INT8 needs in addition.
        extra: The extra of cnnmod that installs these packages. `None` if they are installed by their own names.
        in_torch: Whether the target runs in PyTorch, on the device and in the memory format of the network.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[type[Form], ...]]
    precisions: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    packages_int8: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    in_torch: ClassVar[bool] = False

    def finish_(self, lowered: nn.Module) -> None:  # noqa: B027  most targets do nothing
        """Change the lowered network in place, after its MoD blocks are replaced by forms."""

    @abstractmethod
    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """Return a function that runs the network on images of the example's shape, with as many threads as torch.

        Args:
            lowered: The network that `lower` returns for this target.
            example: Images (N, C, H, W). INT8 is calibrated on them.
            precision: `"float32"` or one of `precisions`.
        """

    def check_images(self, images_NCHW: Tensor) -> None:
        """Check that the target runs on the device and in the dtype of the images. `start` calls this method first.

        Raises:
            ValueError: If it does not. The error is one line that says what to do.
        """
        if not self.in_torch and images_NCHW.device.type != "cpu":
            raise ValueError(
                f"{self.name} runs on the CPU; the example and the networks must be there too, not on "
                f"{images_NCHW.device}"
            )

    def counts_memory(self, device: torch.device) -> bool:
        """Return whether PyTorch's operators run in each call on this device, so that their memory can be measured."""
        return self.in_torch

    def check_installed(self, precision: str = FLOAT32) -> None:
        """Check that the packages that the target needs are installed.

        Raises:
            ModuleNotFoundError: If a package is not installed. The error names the command that installs it.
        """
        for package in (*self.packages, *(self.packages_int8 if precision == INT8 else ())):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                command = f"run: pip install {package}" if self.extra is None else install_hint(self.extra)
                raise ModuleNotFoundError(f"{runtime_name(self, precision)} needs {package}; {command}") from error


class FileTarget(Target):
    """A target that runs a file.

    Attributes:
        format: The name of the file's format in `export`.
        suffix: The suffix of the file. Files with the same stem in the same folder belong to it.
        stores_half: Whether `write` can store weights in 16 bits.
        describes: Whether `describe_` is implemented.
    """

    format: ClassVar[str]
    suffix: ClassVar[str]
    stores_half: ClassVar[bool] = False
    describes: ClassVar[bool] = False

    @abstractmethod
    def write(
        self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False
    ) -> None:
        """Write a lowered network as a file.

        Args:
            lowered: The network that `lower` returns for this target.
            example: Images (N, C, H, W). Without a dynamic batch, the file takes batches of N images.
            path: The file to write.
            dynamic_batch: Whether the file takes any batch size.
            half: Store weights in 16 bits. They are converted to float32 when the file is loaded.

        Raises:
            ValueError: If the network cannot be exported. The error names the layer.
        """

    @abstractmethod
    def load(self, path: Path, threads: int, precision: str = FLOAT32, *, selected: bool = False) -> Loaded:
        """Load a file. `selected` adds the selected channels to the outputs of `run`."""

    @abstractmethod
    def operators(self, path: Path) -> dict[str, int]:
        """Count the operators in a file by name, the most frequent first."""

    def write_for_int8(self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool) -> None:
        """Write the float file that `quantize` reads. By default, it is the file of `write`."""
        self.write(lowered, example, path, dynamic_batch=dynamic_batch)

    def quantize(self, source: Path, path: Path, images_NCHW: Tensor) -> None:
        """Write a float file as an INT8 file.

        Args:
            source: The float file that `write_for_int8` wrote.
            path: The INT8 file to write.
            images_NCHW: Calibration images, float32. If the file has a fixed batch size, their number must be a
                multiple of it.
        """
        raise ValueError(f"int8 is not supported for {self.name}")

    def describe_(self, path: Path, description: Description) -> None:
        """Write the metadata of a description into a file, and with preprocessing, the normalization of pixels."""

    def opset(self, path: Path) -> int | None:
        """Return the version of the ONNX operators in a file, or `None` for other formats."""
        return None

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """See `Target.start`. The network is written to a temporary file and loaded from it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{self.suffix}"
            if precision != INT8:
                self.write(lowered, example, path, dynamic_batch=False)
            else:
                self.write_for_int8(lowered, example, path, dynamic_batch=False)
                source, path = path, path.with_stem("int8")
                self.quantize(source, path, example)
            return self.load(path, torch.get_num_threads(), precision)


def runtime_name(target: Target, precision: str) -> str:
    """Return the name of a target with a precision, such as `"openvino"` for float32 or `"openvino-int8"`."""
    return target.name if precision == FLOAT32 else f"{target.name}-{precision}"
