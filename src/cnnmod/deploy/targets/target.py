"""What a target is: one way to run a lowered network."""

import importlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from cnnmod.deploy.forms import Form

FLOAT32, INT8 = "float32", "int8"


class Loaded(Protocol):
    """A file that a runtime has loaded."""

    def __call__(self, images_NCHW: Tensor) -> Any:
        """The outputs, as the runtime gives them. This is what is timed."""
        ...

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """All outputs by name, as `named_outputs` names them; with `load(selected=True)` also the selected channels
        (N, K) of each MoD block, named after the block with `SELECTED` added."""
        ...


class Target(ABC):
    """A runtime for lowered networks. Subclass it, or `FileTarget`, and register the class with `@register_target`.

    Attributes:
        name: What users call it.
        forms: The forms of a MoD block that it runs, the fastest first. A block gets the first form that accepts it.
        precisions: Those that it has besides float32. `"int8"` needs `FileTarget.quantize`.
        packages: What must be installed.
        packages_int8: What INT8 needs besides.
        extra: The extra of cnnmod that installs these packages; `None`: `pip install` of their names.
        in_torch: Whether it runs in PyTorch: on the device of the network, and in its memory format.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[type[Form], ...]]
    precisions: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    packages_int8: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    in_torch: ClassVar[bool] = False

    def finish_(self, lowered: nn.Module) -> None:  # noqa: B027  most targets do nothing
        """Change the lowered network in place, after its MoD blocks have their forms."""

    @abstractmethod
    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """The network, ready to run on images of the example's shape, with as many threads as torch has.

        Args:
            lowered: What `lower` returns for this target.
            example: Images (N, C, H, W). INT8 is calibrated on them.
            precision: `"float32"` or one of `precisions`.
        """

    def check_installed(self, precision: str = FLOAT32) -> None:
        """Raise `ModuleNotFoundError` for a missing package, with the command that installs it."""
        for package in (*self.packages, *(self.packages_int8 if precision == INT8 else ())):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                what = package if self.extra is None else f"'cnnmod[{self.extra}]'"
                raise ModuleNotFoundError(
                    f"{runtime_name(self, precision)} needs {package}: pip install {what}"
                ) from error


class FileTarget(Target):
    """A target that runs a file.

    Attributes:
        format: What `export` calls the file's format.
        suffix: The ending of the file. Files of the same stem beside it belong to it.
        stores_half: Whether `write` can store weights in 16 bits.
    """

    format: ClassVar[str]
    suffix: ClassVar[str]
    stores_half: ClassVar[bool] = False

    @abstractmethod
    def write(
        self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False
    ) -> None:
        """Write a lowered network.

        Args:
            lowered: What `lower` returns for this target.
            example: Images (N, C, H, W); without a dynamic batch the file takes N at a time.
            path: The file.
            dynamic_batch: Whether the file takes any number of images.
            half: Store weights in 16 bits; they are widened when the file is loaded.

        Raises:
            ValueError: The network cannot be exported, with the layer that cannot.
        """

    @abstractmethod
    def load(self, path: Path, threads: int, precision: str = FLOAT32, *, selected: bool = False) -> Loaded:
        """Load a file; `selected` adds the selected channels to the outputs of `run`."""

    @abstractmethod
    def operators(self, path: Path) -> dict[str, int]:
        """How many operators of each kind a file has, the most frequent first."""

    def quantize(self, source: Path, path: Path, images_NCHW: Tensor) -> None:
        """Write the INT8 file of a float one.

        Args:
            source: The float file, as `write` writes it.
            path: The INT8 file.
            images_NCHW: Calibration images, float32; of a file with a fixed number of images a multiple of that.
        """
        raise NotImplementedError(f"{self.name} has no INT8")

    def opset(self, path: Path) -> int | None:
        """The version of ONNX's operators in a file; `None` for other formats."""
        return None

    def start(self, lowered: nn.Module, example: Tensor, precision: str) -> Callable[[Tensor], Any]:
        """As `Target.start`, by a file that is deleted once it is loaded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{self.suffix}"
            self.write(lowered, example, path, dynamic_batch=False)
            if precision == INT8:
                source, path = path, path.with_stem("int8")
                self.quantize(source, path, example)
            return self.load(path, torch.get_num_threads(), precision)


def runtime_name(target: Target, precision: str) -> str:
    """What users call a target in a precision: `"openvino"` in float32, `"openvino-int8"`."""
    return target.name if precision == FLOAT32 else f"{target.name}-{precision}"
