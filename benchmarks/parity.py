"""Do exported networks compute and select on photographs what they do in eager PyTorch?

Every network of cnnmod, and ten of timm and torchvision, converted, is exported to ONNX Runtime and to OpenVINO and run
there on the 20 photographs of ImageNet that foolbox ships. The weights are random, so vectors (norms, biases, layer
scales), which start at 0 or 1, are drawn too, batch norms see the photographs first, and the classifier's mean is taken
away: else one class would be the top-1 of all photographs. docs/deploy.md is rendered from the result file.

    python benchmarks/parity.py                     # all, an hour on two cores; goes on where it was killed
    python benchmarks/parity.py timm/resnest26d     # these, printed
"""

import json
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
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
from cnnmod.deploy.graph import SUFFIXES, Format
from cnnmod.deploy.runtimes import Runtime, load
from cnnmod.deploy.selector import SELECTED
from cnnmod.method.record import recorded_selection
from cnnmod.method.trace import example_for
from cnnmod.networks import build
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "parity.json"
RUNTIMES: dict[Runtime, Format] = {"onnxruntime": "onnx", "openvino": "openvino"}
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
    """One network in one runtime, against eager PyTorch.

    Attributes:
        name: As `build` takes it.
        runtime: `"onnxruntime"` or `"openvino"`.
        mod_blocks: How many; all of their selections are compared.
        classes: How many different classes the photographs' top-1 are, in eager PyTorch.
        largest_error: Of any logit on any photograph, or on the images of `export`, relative to the largest logit.
        top1_equal: On how many photographs the class is the same.
        top1_near_ties: On how many it is not, but the two largest logits differ by less than 1e-5 of the largest.
        selection_agreement: The share of the selected channels, on photographs, that are the same in the same place.
        tied_agreement: The same for a copy whose importance scores tie, on the images of `export`.
    """

    name: str
    runtime: str
    mod_blocks: int
    classes: int
    largest_error: float
    top1_equal: int
    top1_near_ties: int
    selection_agreement: float
    tied_agreement: float


def names() -> list[str]:
    """All networks, the small ones first."""
    ours = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("cnnmod")]
    for_cifar = [name for name in ours if "cifar" in name]
    return [*for_cifar, *OTHERS, *(name for name in ours if name not in for_cifar)]


def photographs(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """foolbox's photographs of ImageNet, (20, 3, size, size), normalised.

    Raises:
        ModuleNotFoundError: foolbox is not installed.
    """
    package = find_spec("foolbox")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the photographs are foolbox's: pip install foolbox")
    paths = sorted((Path(package.origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(paths) == 20
    pictures = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for path in paths]
    return torch.stack([normalize(pil_to_tensor(picture) / 255, list(mean), list(std)) for picture in pictures])


def survey(name: str) -> list[Row]:
    """Export one network to both runtimes, and compare."""
    torch.manual_seed(0)
    model = build(name)
    if name in OTHERS:
        cnnmod.convert_(model)
    settings = getattr(model, "default_cfg", {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD})
    images = photographs(example_for(model).shape[-1], settings["mean"], settings["std"])
    as_if_trained_(model, images)
    with torch.inference_mode(), recorded_selection(model) as selected:
        wanted_NC = torch.cat([model(some) for some in images.split(_BATCH)])
    index_NK_of = {f"{block}{SELECTED}": torch.cat(indices) for block, indices in selected.items()}
    return [_row(name, model, runtime, images, wanted_NC, index_NK_of) for runtime in RUNTIMES]


def as_if_trained_(model: nn.Module, images: Tensor) -> None:
    """Draw the vectors among the weights, give batch norms the images' statistics, and the logits of each class the
    mean 0; evaluation mode."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
        elif parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0  # the statistics of these images alone
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        model(images)
        classifier.bias -= model.eval()(images).mean(0)


def _row(
    name: str,
    model: nn.Module,
    runtime: Runtime,
    images: Tensor,
    wanted_NC: Tensor,
    index_NK_of: dict[str, Tensor],
) -> Row:
    kind = RUNTIMES[runtime]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{SUFFIXES[kind]}"
        report = cnnmod.export(model, images[:1], path, format=kind)
        run = load(path, runtime, torch.get_num_threads(), selected=True).run
        parts = [run(some) for some in images.split(_BATCH)]
    found = {output: torch.cat([part[output] for part in parts]) for output in parts[0]}
    agreement = [found.pop(block).flatten(1) == index_NK for block, index_NK in index_NK_of.items()]
    (logits_NC,) = found.values()
    error = float((logits_NC - wanted_NC).abs().max() / wanted_NC.abs().max())
    equal_N = logits_NC.argmax(1) == wanted_NC.argmax(1)
    top_N2 = wanted_NC.topk(2, 1).values
    near_N = top_N2[:, 0] - top_N2[:, 1] < _NEAR_TIE * wanted_NC.abs().max()
    return Row(
        name=name,
        runtime=runtime,
        mod_blocks=len(index_NK_of),
        classes=len(wanted_NC.argmax(1).unique()),
        largest_error=max(error, report.largest_error),
        top1_equal=int(equal_N.sum()),
        top1_near_ties=int((near_N & ~equal_N).sum()),
        selection_agreement=float(torch.cat([equal.flatten() for equal in agreement]).double().mean())
        if agreement
        else 1.0,
        tied_agreement=report.tied_agreement,
    )


def main() -> None:
    """Compare the named networks, or all."""
    warnings.simplefilter("ignore")
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
                done += map(asdict, survey(name))
                provenance = asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads()))
                content = {"provenance": provenance, "networks": len(every), "photographs": 20, "rows": done}
                write_whole(RESULT, json.dumps(content, indent=1) + "\n")
            progress("networks", number, len(every))


if __name__ == "__main__":
    main()
