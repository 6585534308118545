"""Test which networks of timm and torchvision can be converted and then work.

Each network is built, converted, run forward and backward, saved, loaded into a new network, lowered, and converted to
its control. The result file has a row for every network; the tables in docs/convert.md are rendered from it.

    python benchmarks/families.py                   # all networks, some hours on two cores; resumes after a kill
    python benchmarks/families.py timm/resnet18     # print the rows of these networks
"""

import contextlib
import copy
import json
import logging
import multiprocessing
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.module_tracker import ModuleTracker

import cnnmod
from cnnmod.method.passes import Pass
from cnnmod.method.trace import example_for, meta_forward, trace
from cnnmod.networks import build
from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "families.json"
_LARGE, _HUGE = (
    150e6,
    700e6,
)  # parameters; larger networks are checked last and alone, or in bfloat16, to stay below 24 GB
_DRAW = 10_007  # a prime, so that channels do not get equal weights


@dataclass(frozen=True)
class Row:
    """The result for one network.

    Attributes:
        name: A name for `build`.
        family: The network's file in timm, or the first word of its name in torchvision.
        outcome: `"works"`; `"fails"` if it has consecutive convolutional blocks but cannot be converted, or fails
            afterwards; `"none"` if it has no such blocks, or only blocks with attention.
        mod_blocks: The number of MoD blocks.
        classes: The classes of the blocks that became MoD blocks.
        kept: The classes of selected blocks that stay standard blocks, each with the reason of its first block.
        reason: Why the network fails or has no blocks.
    """

    name: str
    family: str
    outcome: str
    mod_blocks: int = 0
    classes: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    reason: str = ""


def names() -> list[str]:
    """Return all classifiers of both libraries, except those that cnnmod registers with timm."""
    theirs = [name for name in timm.list_models() if not timm.model_entrypoint(name).__module__.startswith("cnnmod")]
    classifiers = torchvision.models.list_models(module=torchvision.models)
    return [f"timm/{name}" for name in theirs] + [f"torchvision/{name}" for name in classifiers]


def family(name: str) -> str:
    """Return the network's file in timm, or the first word of its name in torchvision."""
    library, _, network = name.partition("/")
    if library == "timm":
        return f"timm {timm.model_entrypoint(network).__module__.rpartition('.')[2]}"
    match = re.match(r"(wide_resnet|shufflenet_v2|mobilenet_v\d|efficientnet_v2|regnet|[a-z]+)", network)
    assert match
    return f"torchvision {match[0]}"


def survey(name: str) -> Row:
    """Test one network."""
    torch.manual_seed(0)
    row = partial(Row, name=name, family=family(name))
    model = _on_meta(name)
    try:
        plan = cnnmod.plan(model)
    except ValueError as error:  # a network that does not run is a failure, not a network without blocks
        is_none = "nothing to convert" in str(error) or "has no convolution" in str(error)
        return row(outcome="none" if is_none else "fails", reason=str(error))
    refused = [block for block in plan.blocks if block.chosen and block.k is None]
    kept = tuple({block.kind: block.reason for block in reversed(refused)}.items())
    if not plan.mod_blocks:
        reason = f"{refused[0].kind}: {refused[0].reason}"
        if all(block.name in _with_attention(model) for block in refused):
            return row(outcome="none", kept=kept, reason=f"its blocks have attention. {reason}")
        return row(outcome="fails", kept=kept, reason=reason)
    classes = tuple(sorted({block.kind for block in plan.blocks if block.k is not None}))
    try:
        _check(_build(name))
        outcome, reason = "works", ""
    except Exception as error:  # any failure is the result
        outcome, reason = "fails", f"{type(error).__name__}: {error}"
    return row(outcome=outcome, mod_blocks=len(plan.mod_blocks), classes=classes, kept=kept, reason=reason)


def _on_meta(name: str) -> nn.Module:
    """Build the network on the meta device, which is fast, or with weights if its constructor computes values."""
    try:
        with torch.device("meta"):
            return _build(name)
    except (RuntimeError, NotImplementedError):
        return _build(name)


def _build(name: str) -> nn.Module:
    quiet = {"init_weights": False} if name in ("torchvision/googlenet", "torchvision/inception_v3") else {}
    library, _, network = name.partition("/")
    settings = timm.get_pretrained_cfg(network) if library == "timm" else None
    size = 0 if settings is None else settings.input_size[1]
    with _QuickDraws():
        model = None
        if size > 256:  # windows and tables for one size, which take minutes at 512 pixels
            with contextlib.suppress(TypeError, AssertionError, ValueError):  # networks without this argument
                smaller = build(name, img_size=256)
                vars(smaller)["default_cfg"] |= {"input_size": (3, 256, 256)}  # example_for reads this
                meta_forward(smaller, example_for(smaller))
                model = smaller
        model = build(name, **quiet) if model is None else model
    return model.bfloat16() if _size(model) > _HUGE else model


class _QuickDraws(TorchFunctionMode):
    """Fill large weights with repetitions of a small draw, because drawing them takes most of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_draw = func in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_)
        if not (is_draw and args[0].numel() > 2 * _DRAW and args[0].is_contiguous() and not args[0].is_meta):
            return func(*args, **(kwargs or {}))
        flat = args[0].detach().view(-1)
        whole = flat.numel() // _DRAW * _DRAW
        flat[:whole].view(-1, _DRAW).copy_(func(flat[:_DRAW].clone(), *args[1:], **(kwargs or {})))
        flat[whole:].copy_(flat[: flat.numel() - whole])
        return args[0]


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check(model: nn.Module) -> None:
    """Convert the network and use it in every way.

    Raises:
        Exception: Any step fails.
    """
    fresh = copy.deepcopy(model)
    blocks = cnnmod.mod_blocks(cnnmod.convert_(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)  # otherwise a load that does nothing would pass
    x_NCHW = _images(model)
    model.requires_grad_(False)
    for block in blocks.values():
        block.requires_grad_(True)
    _sum(model.train()(x_NCHW)).float().square().mean().backward()
    for block_name, block in blocks.items():
        for parameter_name, parameter in block.named_parameters(prefix=block_name):
            assert parameter.grad is not None, f"{parameter_name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{parameter_name}'s gradient is not finite"
            parameter.grad = None
    model.eval()
    with torch.inference_mode():
        outputs = _sum(model(x_NCHW))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            cnnmod.save(model, path)
            cnnmod.load_(fresh.eval(), path)
        assert torch.equal(_sum(fresh(x_NCHW)), outputs), "the loaded network has other outputs"
        del fresh
        if outputs.dtype == torch.bfloat16:  # folded norms round differently
            model, x_NCHW = model.float(), x_NCHW.float()
            outputs = _sum(model(x_NCHW))
        lowered = _sum(cnnmod.lower(model)(x_NCHW))
        assert (lowered - outputs).abs().max() < 1e-3 * outputs.abs().max().clamp(min=1), "lowered"
        assert _sum(cnnmod.control_(model)(x_NCHW)).isfinite().all(), "the control's output is not finite"
    assert not cnnmod.mod_blocks(model)


def _images(model: nn.Module) -> Tensor:
    """Return two images, small ones if the network accepts any size or was built for a small size."""
    full = example_for(model)
    for size in (96, 160, 256):
        small = full.new_empty(1, full.shape[1], size, size)
        try:
            meta_forward(model, small)
        except ValueError:
            continue
        full = small
        break
    return torch.rand(2, *full.shape[1:], dtype=full.dtype)


def _sum(outputs: Any) -> Tensor:
    """Return the logits, summed over the auxiliary heads that a network has in training."""
    return torch.stack(list(outputs)).sum(0) if isinstance(outputs, (tuple, list)) else outputs


def _with_attention(model: nn.Module) -> set[str]:
    """Return the layers in which feature maps are multiplied with feature maps as matrices."""
    layers: set[str] = set()
    tracker = ModuleTracker()

    class Products(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            matrices = [value for value in args if isinstance(value, Tensor) and value.ndim > 2]
            product = func.__name__ in ("matmul", "__matmul__", "bmm", "einsum") and len(matrices) > 1
            if product or func is scaled_dot_product_attention:
                layers.update(parent.partition(".")[2] for parent in tracker.parents)
            return func(*args, **(kwargs or {}))

    def observe(run: Pass) -> None:
        with tracker, Products():  # inside, because `trace` does not call hooks that were added before
            run()

    trace(model, observe)
    return layers


def _quiet() -> None:
    warnings.simplefilter("ignore")  # the constructors of the libraries warn
    logging.getLogger("cnnmod").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def _unless_large(name: str) -> Row | str:
    return name if _size(_on_meta(name)) > _LARGE else survey(name)


def _rows(todo: list[str]) -> Iterator[Row]:
    large: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2, _quiet, maxtasksperchild=50) as pool:
        for row in pool.imap_unordered(_unless_large, todo):
            if isinstance(row, str):
                large.append(row)
            else:
                yield row
    with spawn.Pool(1, _quiet, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(survey, large)


def main() -> None:
    """Test the named networks, or all."""
    if sys.argv[1:]:
        _quiet()
        for name in sys.argv[1:]:
            print(json.dumps(asdict(survey(name))))
        return
    done = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    every = names()
    todo = [name for name in every if name not in {row["name"] for row in done}]
    works = {row["family"] for row in done if row["outcome"] == "works"}
    todo.sort(key=lambda name: family(name) not in works)  # families without a working network yet come last
    with progress_bars() as progress:
        for row in _rows(todo):
            done.append(asdict(row))
            _write(done, len(every))
            progress("networks", len(done), len(every))


def _write(rows: list[dict[str, Any]], networks: int) -> None:
    provenance = asdict(Provenance.now(torch.device("cpu"), 1))
    rows = sorted(rows, key=lambda row: row["name"])
    write_whole(RESULT, json.dumps({"provenance": provenance, "networks": networks, "rows": rows}, indent=0) + "\n")


if __name__ == "__main__":
    main()
