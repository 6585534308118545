"""Compare exported networks with eager PyTorch on photographs: outputs and selected channels.

All networks of cnnmod, and ten converted networks of timm and torchvision, are exported to ONNX Runtime and OpenVINO
and run there on the 20 ImageNet photographs of the package foolbox. The weights are random. Vectors (norms, biases,
layer scales), which start at 0 or 1, are drawn too, batch norms use the statistics of the photographs, and the mean of
the logits is subtracted. Otherwise one class would be the top-1 of all photographs. The table in docs/deploy.md is
rendered from the result file.

    python benchmarks/parity.py                     # all networks, an hour on two cores; resumes after a kill
    python benchmarks/parity.py timm/resnest26d     # print the rows of these networks
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.functional import normalize, pil_to_tensor

import cnnmod
from cnnmod.deploy.selector import SELECTED
from cnnmod.deploy.targets.table import TARGETS
from cnnmod.deploy.targets.target import FileTarget
from cnnmod.method.record import recorded_selection
from cnnmod.method.trace import example_for
from cnnmod.networks import build
from cnnmod.networks.registry import FACTORIES
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "parity.json"
RUNTIMES = ("onnxruntime", "openvino")
OTHERS = (
    "torchvision/resnet18",
    "torchvision/wide_resnet50_2",
    "torchvision/regnet_x_400mf",
    "torchvision/mobilenet_v3_small",
    "torchvision/efficientnet_b0",
    "timm/resnest26d",
    "timm/repvgg_a0",
    "timm/ghostnet_100",
    "timm/convnextv2_atto",
    "timm/hrnet_w18_small",
)
_BATCH = 5
_NEAR_TIE = 1e-5


@dataclass(frozen=True)
class Row:
    """One network in one runtime, compared with eager PyTorch.

    Attributes:
        name: A name for `build`.
        runtime: `"onnxruntime"` or `"openvino"`.
        mod_blocks: The number of MoD blocks; the selections of all of them are compared.
        classes: The number of different top-1 classes of the photographs, in eager PyTorch.
        largest_error: The largest error of a logit, relative to the largest logit, on the photographs with the same
            selection and on the images of `export`.
        top1_equal: The number of photographs with the same class.
        top1_near_ties: The number of photographs with another class whose two largest logits differ by less than 1e-5
            of the largest.
        selected_alike: The number of photographs on which all selected channels are the same, in the same order.
        selection_near_ties: The number of photographs on which they are not, but the logits of the importance scores of
            the first channels that differ are within 1e-5 of the block's largest, so that rounding decides.
        tied_agreement: The share of equal selected channels for a copy of the network in which all importance scores
            are equal, on the images of `export`.
    """

    name: str
    runtime: str
    mod_blocks: int
    classes: int
    largest_error: float
    top1_equal: int
    top1_near_ties: int
    selected_alike: int
    selection_near_ties: int
    tied_agreement: float


@dataclass(frozen=True)
class Eager:
    """The results of a network in eager PyTorch.

    Attributes:
        logits_NC: The logits of the classes.
        index_NK_of: The selected channels of each MoD block, by name.
        importance_NC_of: The logits of the importance scores of all candidates of each MoD block, by name.
    """

    logits_NC: Tensor
    index_NK_of: dict[str, Tensor]
    importance_NC_of: dict[str, Tensor]


def names() -> list[str]:
    """Return all networks, the small ones first."""
    ours = [name for name in timm.list_models() if name in FACTORIES]
    for_cifar = [name for name in ours if "cifar" in name]
    return [*for_cifar, *OTHERS, *(name for name in ours if name not in for_cifar)]


def photographs(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return foolbox's photographs of ImageNet, (20, 3, size, size), normalized.

    Raises:
        ModuleNotFoundError: foolbox is not installed.
    """
    package = find_spec("foolbox")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the photographs are part of foolbox: pip install foolbox")
    paths = sorted((Path(package.origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(paths) == 20
    pictures = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for path in paths]
    return torch.stack([normalize(pil_to_tensor(picture) / 255, list(mean), list(std)) for picture in pictures])


def survey(name: str, **arguments: Any) -> list[Row]:
    """Export one network, built with these arguments, to both runtimes, and compare it with eager PyTorch."""
    torch.manual_seed(0)
    model = build(name, **arguments)
    if name in OTHERS:
        cnnmod.convert_(model)
    settings = getattr(model, "default_cfg", {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD})
    images = photographs(example_for(model).shape[-1], settings["mean"], settings["std"])
    as_if_trained_(model, images)
    with torch.inference_mode(), recorded_selection(model) as selected, recorded_logits(model) as scored:
        logits_NC = torch.cat([model(batch) for batch in images.split(_BATCH)])
    index_NK_of = {block: torch.cat(indices) for block, indices in selected.items()}
    importance_NC_of = {block: torch.cat(logits) for block, logits in scored.items()}
    eager = Eager(logits_NC, index_NK_of, importance_NC_of)
    return [_row(name, model, runtime, images, eager) for runtime in RUNTIMES]


@contextmanager
def recorded_logits(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the logits (N, C) of the importance scores of each MoD block, at every call inside the context."""
    logits: dict[str, list[Tensor]] = {name: [] for name in cnnmod.mod_blocks(model)}

    def note(name: str, block: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(block, cnnmod.MoDBlock)
        x_NCHW = args[0].movedim(3, 1) if block.layout == "NHWC" else args[0]
        logits[name].append(block.selector(x_NCHW[:, : block.num_candidates]))

    hooks = [block.register_forward_pre_hook(partial(note, name)) for name, block in cnnmod.mod_blocks(model).items()]
    yield logits
    for hook in hooks:
        hook.remove()


def as_if_trained_(model: nn.Module, images: Tensor) -> None:
    """Draw random norms and biases, use the images' statistics in batch norms, and center the logits of each class.

    The model is in evaluation mode afterwards.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
        elif parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0  # only the statistics of these images
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        model(images)
        classifier.bias -= model.eval()(images).mean(0)


def _row(name: str, model: nn.Module, runtime: str, images: Tensor, eager: Eager) -> Row:
    target = TARGETS[runtime]
    assert isinstance(target, FileTarget)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{target.suffix}"
        report = cnnmod.export(model, images[:1], path)
        run = target.load(path, torch.get_num_threads(), selected=True).run
        parts = [run(batch) for batch in images.split(_BATCH)]
    outputs = {output: torch.cat([part[output] for part in parts]) for output in parts[0]}
    alike_N, near_tied_N = selected_alike(
        eager, {block: outputs.pop(f"{block}{SELECTED}") for block in eager.index_NK_of}
    )
    (logits_NC,) = outputs.values()
    expected_NC, largest = eager.logits_NC, eager.logits_NC.abs().max()
    error = float((logits_NC - expected_NC)[alike_N].abs().max() / largest)
    equal_N = logits_NC.argmax(1) == expected_NC.argmax(1)
    top_N2 = expected_NC.topk(2, 1).values
    near_N = top_N2[:, 0] - top_N2[:, 1] < _NEAR_TIE * largest
    return Row(
        name=name,
        runtime=runtime,
        mod_blocks=len(eager.index_NK_of),
        classes=len(expected_NC.argmax(1).unique()),
        largest_error=max(error, report.largest_error),
        top1_equal=int(equal_N.sum()),
        top1_near_ties=int((near_N & ~equal_N).sum()),
        selected_alike=int(alike_N.sum()),
        selection_near_ties=int(near_tied_N.sum()),
        tied_agreement=1.0 if report.tied_agreement is None else report.tied_agreement,
    )


def selected_alike(eager: Eager, index_NK_of: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return which images select the same channels in all blocks, and which do not because of rounding, both (N,)."""
    alike_N = torch.ones(len(eager.logits_NC), dtype=torch.bool)
    near_tied_N = ~alike_N
    for block, theirs in index_NK_of.items():
        ours_NK, theirs_NK, importance_NC = eager.index_NK_of[block], theirs.flatten(1), eager.importance_NC_of[block]
        apart_N = (importance_NC.gather(1, ours_NK) - importance_NC.gather(1, theirs_NK)).abs().amax(1)
        differs_first_N = alike_N & (ours_NK != theirs_NK).any(1)
        near_tied_N |= differs_first_N & (apart_N < _NEAR_TIE * importance_NC.abs().amax(1))
        alike_N &= ~differs_first_N
    return alike_N, near_tied_N


def main() -> None:
    """Compare the named networks, or all networks."""
    warnings.simplefilter("ignore")  # the exporters warn
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            for row in survey(name):
                print(json.dumps(asdict(row)))
        return
    check_writable(RESULT)
    done: list[dict[str, Any]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    every = names()
    with progress_bars() as progress:
        for number, name in enumerate(every, 1):
            if name not in {row["name"] for row in done}:
                done = sorted(done + [asdict(row) for row in survey(name)], key=lambda row: every.index(row["name"]))
                provenance = asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads()))
                content = {"provenance": provenance, "networks": len(every), "photographs": 20, "rows": done}
                write_whole(RESULT, json.dumps(content, indent=1) + "\n")
            progress("networks", number, len(every))


if __name__ == "__main__":
    main()
