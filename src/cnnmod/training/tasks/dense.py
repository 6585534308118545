"""What segmentation and detection share: photographs in color, and a backbone that may start from a classifier's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnmod.networks.features import load_backbone_
from cnnmod.training.images import Data, DecodedImages, Images, first_of_shuffled
from cnnmod.training.options import ImageOptions
from cnnmod.training.scenes import Found
from cnnmod.training.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class OverBackbone(Task):
    """A task of networks over a backbone."""

    backbone_weights: str | None = None
    """The file of a classifier whose weights the backbone starts from; in it `{row}` stands for the row, as each has a
    backbone of its own."""

    def check(self, images: ImageOptions) -> None:
        if images.in_channels != 3:
            raise ValueError(f"images to segment or detect in have 3 channels, not in_channels = {images.in_channels}")

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.get("frozen_norms") and not self.backbone_weights:
            raise ValueError(
                "frozen_norms keeps the statistics of a trained backbone; name its file, as --set "
                "backbone_weights=runs/imagenet/{row}-seed0/best.safetensors, or --set network_args.frozen_norms=false"
            )
        return dict(given)

    def load_weights_(self, model: nn.Module, row: str) -> None:
        if self.backbone_weights:
            load_backbone_(model, self.backbone_weights.replace("{row}", row))


def open_scenes(
    place: str | Path,
    found: Found,
    train_images: int | None,
    transform: Callable[[bool], Callable[..., Any]],
    *,
    stacked: bool,
    workers: int,
    skip_broken: bool,
) -> Data:
    """Photographs with masks or boxes as data; the validation split is tested on if there is no test split.

    Args:
        place: What errors call it.
        found: Its splits.
        train_images: How many are trained on.
        transform: Training or not → what prepares an image and its label.
        stacked: Whether images and labels of a batch are one tensor each.
        workers: Processes that decode.
        skip_broken: Leave broken images out.

    Raises:
        ValueError: A split has no image, or there are fewer than `train_images`.
    """
    splits, classes = found
    for split in ("train", "validation"):
        if not len(splits.get(split, ())):
            raise ValueError(f"{place} has no image to {'train on' if split == 'train' else 'validate on'}")
    train = splits["train"]
    if train_images is not None:
        train = train.part(first_of_shuffled(train_images, len(train), place))

    def made(split: str, training: bool) -> Images:
        dataset = train if split == "train" else splits[split]
        return DecodedImages(dataset, transform(training), stacked=stacked, workers=workers, skip_broken=skip_broken)

    return Data(
        train=made("train", True),
        validation=made("validation", False) if "test" in splits else None,
        test=made("test" if "test" in splits else "validation", False),
        num_classes=len(classes),
        classes=classes,
    )
