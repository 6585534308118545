"""What the targets share that write files with torch's exporters."""

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
    """What an exporter makes of a network that returns `outputs` of what it returns.

    Raises:
        ValueError: The network cannot be exported, with the layer that cannot.
    """
    hook = model.register_forward_hook(lambda module, args, output: outputs(output))
    try:
        with restored(model, weights=False):  # an exporter's tensors stay in what a forward caches
            return export()
    except Exception as error:  # whatever an exporter raises at a foreign forward
        hook.remove()
        raise not_exportable(model, example, error) from error
    finally:
        hook.remove()


def check_outputs(model: nn.Module, example: Tensor, *, for_numpy: bool) -> None:
    """Raise `ValueError` for a network whose outputs a file cannot hold; `for_numpy`: nor a NumPy array."""
    try:
        output = meta_forward(model, example)
    except ValueError:  # the exporter fails too, and is asked where
        return
    if isinstance(output, list) and output and isinstance(output[0], dict) and "boxes" in output[0]:
        raise ValueError(
            f"{type(model).__name__} is a detector: how many boxes it finds depends on the image, which torch's "
            "exporters cannot write. Export what takes its time, model.backbone, and run the rest in torch"
        )
    for name, value in named_outputs(output).items():
        if for_numpy and (value.is_complex() or value.dtype == torch.bfloat16):
            raise ValueError(
                f"the network returns {value.dtype} as {name!r}; ONNX and OpenVINO files give floats, integers and "
                "booleans that NumPy has"
            )


def shapes_for(model: nn.Module, dynamic_batch: bool) -> Any:
    """For torch.export: the input's first dimension is any, in `forward(images)` or `forward(*inputs)`."""
    if not dynamic_batch:
        return None
    images = {0: torch.export.Dim("batch")}
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    return ((images,),) if first.kind is first.VAR_POSITIONAL else (images,)


def images_for(example: Tensor, dynamic_batch: bool) -> Tensor:
    """torch.export takes a batch of one for a constant."""
    return example[:1].repeat(2, 1, 1, 1) if dynamic_batch else example


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of their own innards."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
