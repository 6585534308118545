"""Lower, export and run segmentation networks and detectors."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cnnmod import MoDConfig, compare, convert_, export, save
from cnnmod.deploy.targets.table import TARGETS, find_format
from cnnmod.networks.detection import faster_rcnn, retinanet
from cnnmod.networks.segmentation import fcn
from conftest import trained_norms_

FRESH = """
import sys
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from cnnmod import export
from cnnmod.deploy.targets.table import TARGETS
from cnnmod.networks import load

folder = Path(sys.argv[1])
images = load_file(folder / "images.safetensors")["images"]
segmenter, detector = (load(folder / f"{name}.safetensors").eval() for name in ("segmenter", "detector"))
found = {}
export(segmenter, images, folder / "segmenter.onnx")
export(detector.backbone, images, folder / "backbone.onnx")
with torch.inference_mode():
    found["loaded"] = segmenter(images)["out"]
    found["exported"] = TARGETS["onnxruntime"].load(folder / "segmenter.onnx", 1).run(images)["out"]
    found |= {f"loaded {name}": value for name, value in detector(images)[0].items()}
    backbone, detector.backbone = detector.backbone, torch.nn.Module()
    file = TARGETS["onnxruntime"].load(folder / "backbone.onnx", 1)
    detector.backbone.forward = lambda images: OrderedDict(file.run(images))
    found |= {f"exported {name}": value for name, value in detector(images)[0].items()}
save_file({name: value.contiguous() for name, value in found.items()}, folder / "found.safetensors")
"""
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
EXAMPLE = torch.rand(1, 3, 64, 96)
NARROW: dict[str, Any] = {"backbone_args": {"channels": (16, 32, 64, 128), "layers": (2, 1, 1, 1)}}


def segmenter() -> nn.Module:
    return trained_norms_(fcn("resnet18_mod", 5, head_channels=16, **NARROW))


def detector(make: Any = faster_rcnn) -> Any:
    return trained_norms_(make("resnet18_mod", 4, min_size=64, max_size=96, pyramid_channels=16, **NARROW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDINGS)
def test_segmentation_network_is_exported_without_auxiliary_head(kind: str, tmp_path: Path) -> None:
    model, path = segmenter(), tmp_path / f"network{ENDINGS[kind]}"
    report = export(model, EXAMPLE, path, format=kind)
    assert report.largest_error < 1e-5
    assert (report.selection_agreement, report.tied_agreement) == (1, 1)
    found = find_format(kind).load(path, 1).run(EXAMPLE.repeat(2, 1, 1, 1))
    outputs = {name: value for name, value in found.items() if "selected" not in name}
    (logits,) = outputs.values()
    assert list(outputs) == ["out"]
    with torch.inference_mode():
        torch.testing.assert_close(logits[:1], model(EXAMPLE)["out"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_candidates_are_split_in_a_segmentation_network(tmp_path: Path) -> None:
    # the Resize operator of the network has optional inputs
    arguments = {"config": MoDConfig(c=16, candidates=4), "channels": (32, 64, 64, 64)}
    model = fcn("resnet18_mod", 5, head_channels=16, backbone_args=arguments).eval()
    report = export(model, EXAMPLE, tmp_path / "network.onnx")
    assert report.largest_error < 1e-5
    assert report.operators["Concat"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDINGS)
def test_detection_backbone_is_exported(kind: str, tmp_path: Path) -> None:
    report = export(detector().backbone, EXAMPLE, tmp_path / f"backbone{ENDINGS[kind]}", format=kind)
    assert report.largest_error < 1e-5
    assert report.tied_agreement == 1


class InOnnxRuntime(nn.Module):
    """A backbone that runs an exported file in ONNX Runtime."""

    def __init__(self, path: Path, out_channels: int) -> None:
        super().__init__()
        self.file, self.out_channels = TARGETS["onnxruntime"].load(path, 1), out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(self.file.run(images))


@pytest.mark.slow
def test_detector_runs_with_an_exported_backbone(tmp_path: Path) -> None:
    model, images = detector(), [torch.rand(3, 64, 96)]
    export(model.backbone, EXAMPLE, tmp_path / "backbone.onnx")
    with torch.inference_mode():
        expected = model(images)
        model.backbone = InOnnxRuntime(tmp_path / "backbone.onnx", model.backbone.out_channels)
        torch.testing.assert_close(model(images), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [faster_rcnn, pytest.param(retinanet, marks=pytest.mark.slow)])
def test_exporting_a_whole_detector_raises_with_advice(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a detector: its number of boxes .* Export .*, model.backbone"):
        export(detector(make), EXAMPLE, tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match=r"is a detector"):
        export(detector(make), EXAMPLE, tmp_path / "detector.pt2", format="pt2")
    assert not any(tmp_path.iterdir())


def test_auxiliary_head_is_not_counted() -> None:
    networks = {name: fcn(f"resnet18{name}", 5, head_channels=16, **NARROW) for name in ("", "_mod")}
    found = compare(networks, EXAMPLE, rounds=1)
    bare = fcn("resnet18", 5, aux=False, head_channels=16, **NARROW)
    assert found.rows[0].parameters == sum(parameter.numel() for parameter in bare.parameters())
    assert networks[""].aux_classifier is not None


@pytest.mark.slow
def test_detectors_are_compared() -> None:
    dense = faster_rcnn("resnet18", 4, min_size=64, max_size=96, pyramid_channels=16, **NARROW)
    mod = convert_(faster_rcnn("resnet18", 4, min_size=64, max_size=96, pyramid_channels=16, **NARROW))
    found = compare({"dense": dense, "mod": mod}, EXAMPLE, rounds=1)
    assert [row.role for row in found.rows] == ["baseline", "mod", "control"]
    with pytest.raises(ValueError, match=r"a training step is timed for classifiers only"):
        compare({"dense": dense, "mod": mod}, EXAMPLE, rounds=1, training=True)
    assert found.rows[0].gmacs > found.rows[2].gmacs > 0


@pytest.mark.slow
def test_networks_compute_the_same_in_another_process(tmp_path: Path) -> None:
    networks = {"segmenter": segmenter(), "detector": detector()}
    arguments = {"backbone": "resnet18_mod", "backbone_args": {"channels": [16, 32, 64, 128], "layers": [2, 1, 1, 1]}}
    more = {
        "segmenter": ("cnnmod/fcn", {"num_classes": 5, "head_channels": 16}),
        "detector": ("cnnmod/faster_rcnn", {"num_classes": 4, "min_size": 64, "max_size": 96, "pyramid_channels": 16}),
    }
    for name, model in networks.items():
        factory, given = more[name]
        save(model, tmp_path / f"{name}.safetensors", factory=factory, factory_args=arguments | given)
    save_file({"images": EXAMPLE}, tmp_path / "images.safetensors")
    subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH, str(tmp_path)], check=True)
    found = load_file(tmp_path / "found.safetensors")
    with torch.inference_mode():
        logits, (boxes,) = networks["segmenter"](EXAMPLE)["out"], networks["detector"](EXAMPLE)
    assert torch.equal(found["loaded"], logits)
    torch.testing.assert_close(found["exported"], logits, atol=1e-4, rtol=1e-4)
    assert len(boxes["boxes"])
    for name, value in boxes.items():
        assert torch.equal(found[f"loaded {name}"], value)
        torch.testing.assert_close(found[f"exported {name}"], value, atol=1e-3, rtol=1e-3)
