"""The target `pt2`: files of torch.export in PyTorch."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from cnnmod.deploy.graph_forms import GraphForm
from cnnmod.deploy.outputs import named_outputs, plain
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.target import FLOAT32, FileTarget
from cnnmod.deploy.torch_export import check_outputs, exported, images_for, quiet, shapes_for

_FIRST_TORCH = "2.8"


class Pt2Target(FileTarget):
    """Files of torch.export in PyTorch."""

    name = "pt2"
    forms = (GraphForm,)
    in_torch = True
    format = "pt2"
    suffix = ".pt2"

    def check_installed(self, precision: str = FLOAT32) -> None:
        """See `Target.check_installed`.

        Raises:
            ValueError: If torch is older than 2.8, whose torch.export cannot save MoD blocks.
        """
        super().check_installed(precision)
        if TorchVersion(torch.__version__) < _FIRST_TORCH:
            raise ValueError(f"pt2 needs torch {_FIRST_TORCH} or newer, not {torch.__version__}")

    def write(
        self, lowered: nn.Module, example: Tensor, path: Path, *, dynamic_batch: bool, half: bool = False
    ) -> None:
        check_outputs(lowered, example, for_numpy=False)
        images, shapes = images_for(example, dynamic_batch), shapes_for(lowered, dynamic_batch)
        with quiet():
            program = exported(
                lambda: torch.export.export(lowered, (images,), dynamic_shapes=shapes), lowered, example, plain
            )
            torch.export.save(program, path)

    def load(self, path: Path, threads: int, precision: str = FLOAT32, *, selected: bool = False) -> "Program":
        """See `FileTarget.load`. The number of threads is not used, since the file runs with torch's threads."""
        return Program(path)

    def operators(self, path: Path) -> dict[str, int]:
        nodes = torch.export.load(path).graph.nodes
        return dict(Counter(str(node.target) for node in nodes if node.op == "call_function").most_common())


class Program:
    """A file of torch.export, loaded in PyTorch."""

    def __init__(self, path: Path) -> None:
        self.module = torch.export.load(path).module()

    def run(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Return all outputs and the selected channels, by name."""
        recorder = _Recorder(self.module)
        device = next(self.module.parameters(), images_NCHW).device
        with torch.inference_mode():
            output = recorder.run(images_NCHW.to(device))
        return named_outputs(output) | recorder.selected

    def __call__(self, images_NCHW: Tensor) -> Any:
        """Return the outputs."""
        with torch.inference_mode():
            return self.module(images_NCHW)


class _Recorder(torch.fx.Interpreter):
    """An interpreter that keeps the selected channels of the MoD blocks."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.selected: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is torch.ops.aten.topk.default:
            block, _ = list(n.meta["nn_module_stack"].values())[-1]
            self.selected[f"{block}{SELECTED}"] = value[1]
        return value
