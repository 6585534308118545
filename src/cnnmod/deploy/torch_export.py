"""Functions for targets that write files with torch's exporters."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.deploy.exportable import not_exportable
from cnnmod.deploy.outputs import named_outputs
from cnnmod.method.restore import restored
from cnnmod.method.trace import meta_forward


def exported(export: Callable[[], Any], model: nn.Module, example: Tensor, outputs: Callable[[Any], Any]) -> Any:
    """Run an exporter on a network, and convert the return value of the network with `outputs`.

    Args:
        export: A function that exports the network.
        model: The network.
        example: Images (N, C, H, W).
        outputs: A function that converts what the network returns.

    Returns:
        What the exporter returns.

    Raises:
        ValueError: If the network cannot be exported. The error names the layer.
    """
    with restored(model, weights=False):  # a forward pass may cache an exporter's tensors
        hook = model.register_forward_hook(lambda module, args, output: outputs(output))
        try:
            return export()
        except Exception as error:  # an exporter can raise anything
            failure = error
        finally:
            hook.remove()
    raise not_exportable(model, example, failure) from failure


def check_outputs(model: nn.Module, example: Tensor, *, for_numpy: bool) -> None:
    """Check that a file can store the outputs of a network, and that NumPy supports them if `for_numpy` is true.

    Raises:
        ValueError: If an output is not supported.
    """
    try:
        output = meta_forward(model, example)
    except ValueError:  # the exporter fails too, and its error names the layer
        return
    if isinstance(output, list) and output and isinstance(output[0], dict) and "boxes" in output[0]:
        raise ValueError(
            f"{type(model).__name__} is a detector: its number of boxes depends on the image, which torch's exporters "
            "do not support. Export the expensive part, model.backbone, and run the rest in PyTorch"
        )
    for name, value in named_outputs(output).items():
        if for_numpy and (value.is_complex() or value.dtype == torch.bfloat16):
            raise ValueError(
                f"the network returns {value.dtype} as {name!r}; ONNX and OpenVINO files support the floats, integers "
                "and booleans of NumPy"
            )


def shapes_for(model: nn.Module, dynamic_batch: bool) -> Any:
    """Return the dynamic shapes for torch.export, for `forward(images)` or `forward(*inputs)`."""
    if not dynamic_batch:
        return None
    images = {0: torch.export.Dim("batch")}
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    return ((images,),) if first.kind is first.VAR_POSITIONAL else (images,)


def images_for(example: Tensor, dynamic_batch: bool) -> Tensor:
    """Return two images for a dynamic batch, since torch.export treats a batch size of 1 as a constant."""
    return example[:1].repeat(2, 1, 1, 1) if dynamic_batch else example


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of the exporters about their own internals."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
