from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from cnnmod import MoDConfig, control_, convert_, count, lower, mod_blocks, save
from cnnmod.networks import build, load
from cnnmod.networks.detection import faster_rcnn, retinanet

SMALL: dict[str, Any] = {"min_size": 64, "max_size": 96, "pyramid_channels": 16}


def weights(model: nn.Module) -> int:
    """Return the number of weights in convolutions and linear layers, without biases."""
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))


def found_in(model: nn.Module, images: Any) -> list[dict[str, Tensor]]:
    with torch.inference_mode():
        return model.eval()(images)


@pytest.mark.parametrize("depth", [50, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (75, 86))])
def test_detectors_differ_only_in_their_backbones(depth: int) -> None:
    with torch.device("meta"):
        dense, mod = build("faster_rcnn_resnet50"), build(f"faster_rcnn_resnet{depth}_mod")
        assert weights(mod) - weights(dense) == weights(build(f"resnet{depth}_mod")) - weights(build("resnet50"))


def test_dense_detector_equals_torchvision() -> None:
    ours, theirs = (
        faster_rcnn("torchvision/resnet18", 4, **SMALL | {"pyramid_channels": 256}),
        torchvision.models.detection.FasterRCNN(
            torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
                backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
            ),
            num_classes=4,
            min_size=64,
            max_size=96,
        ),
    )
    theirs.load_state_dict(ours.state_dict())
    images = [torch.rand(3, 64, 80), torch.rand(3, 50, 96)]
    for a, b in zip(found_in(ours, images), found_in(theirs, images), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("boxes", "labels", "scores"))


@pytest.mark.parametrize("make", [faster_rcnn, retinanet])
def test_predictions_do_not_depend_on_other_images_of_the_batch(make: Any) -> None:
    torch.manual_seed(0)
    model = make("resnet18_mod", 4, **SMALL)
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 80)]
    together = found_in(model, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = found_in(model, [image])
        torch.testing.assert_close(alone, found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [faster_rcnn, retinanet])
def test_detector_trains_on_images_with_and_without_boxes(make: Any) -> None:
    model = make("resnet18_mod", 4, **SMALL)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    some = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([3])}
    losses = model([torch.rand(3, 64, 80), torch.rand(3, 64, 80)], [none, some])
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "layer4" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_torchvision_detectors_are_converted(name: str) -> None:
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, num_classes=4)
    assert mod_blocks(convert_(model))
    control_(model)
    assert not mod_blocks(model)
    found_in(model, torch.rand(1, 3, 64, 64))


def test_converting_the_detector_equals_converting_its_backbone() -> None:
    whole, over = convert_(faster_rcnn("resnet18", 4, **SMALL)), faster_rcnn("resnet18_mod", 4, **SMALL)
    over.load_state_dict(whole.state_dict())
    images = torch.rand(1, 3, 64, 80)
    torch.testing.assert_close(found_in(whole, images), found_in(over, images), atol=0, rtol=0)


def test_lowered_detector_equals_the_original() -> None:
    model = faster_rcnn("resnet18_mod", 4, **SMALL).eval()
    images = torch.rand(2, 3, 64, 80)
    torch.testing.assert_close(found_in(lower(model), images), found_in(model, images), atol=1e-4, rtol=1e-4)


def test_frozen_norms_do_not_change_the_initial_output() -> None:
    torch.manual_seed(0)
    frozen = faster_rcnn("resnet18_mod", 4, frozen_norms=True, **SMALL)
    norms = [layer for layer in frozen.backbone.body.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert len(norms) == 20
    plain = faster_rcnn("resnet18_mod", 4, **SMALL)
    plain.load_state_dict(frozen.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 80)
    torch.testing.assert_close(found_in(plain, images), found_in(frozen, images), atol=1e-5, rtol=1e-5)


def test_count_of_a_detector_exceeds_its_backbone() -> None:
    assert (
        count(faster_rcnn("resnet18_mod", 4, **SMALL)).gmacs
        > count(build("resnet18_mod"), torch.rand(1, 3, 64, 64)).gmacs
    )


def test_detector_is_saved_and_loaded(tmp_path: Path) -> None:
    arguments = {"backbone": "resnet18", "num_classes": 4} | SMALL
    model = convert_(build("faster_rcnn", **arguments), MoDConfig(order="index"))
    save(model, tmp_path / "detector.safetensors", factory="cnnmod/faster_rcnn", factory_args=arguments)
    again = load(tmp_path / "detector.safetensors")
    images = torch.rand(1, 3, 64, 80)
    torch.testing.assert_close(found_in(again, images), found_in(model, images), atol=0, rtol=0)


def test_unsupported_backbones_raise() -> None:
    with pytest.raises(ValueError, match=r"frozen_norms needs nn.BatchNorm2d with .* the backbone has BatchNormAct2d"):
        faster_rcnn("mobilenetv2_mod", 4, frozen_norms=True)
    with pytest.raises(ValueError, match=r"stages of the strides \[1, 2, 4, 8\]; detection also needs 16"):
        faster_rcnn("resnet18_cifar", 4)
