"""Shared code of segmentation and detection: data sets of color photographs, and initialization of backbones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnmod.networks.features import load_backbone_
from cnnmod.training.images import Data, DecodedImages, Images, first_of_shuffled
from cnnmod.training.options import ImageOptions
from cnnmod.training.scene_layouts import SceneData
from cnnmod.training.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class BackboneTask(Task):
    """Base class of tasks whose networks have a backbone."""

    backbone_weights: str | None = None
    """The checkpoint of a classifier that initializes the backbone. `{row}` in the path is replaced by the row, since
    the backbones of the rows differ."""

    def check(self, images: ImageOptions) -> None:
        if images.in_channels != 3:
            raise ValueError(
                f"segmentation and detection need images with 3 channels, not in_channels = {images.in_channels}"
            )

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.get("frozen_norms") and not self.backbone_weights:
            raise ValueError(
                "frozen_norms needs a trained backbone; set its checkpoint, such as --set "
                "backbone_weights=runs/imagenet/{row}-seed0/best.safetensors, or --set network_args.frozen_norms=false"
            )
        return dict(given)

    def load_weights_(self, model: nn.Module, row: str) -> None:
        if self.backbone_weights:
            load_backbone_(model, self.backbone_weights.replace("{row}", row))


def open_scenes(
    name: str | Path,
    scenes: SceneData,
    train_images: int | None,
    transform: Callable[[bool], Callable[..., Any]],
    *,
    stacked: bool,
    workers: int,
    skip_broken: bool,
) -> Data:
    """Open a data set of photographs with masks or boxes. Without a test split, the validation split is the test split.

    Args:
        name: The name of the data set in errors.
        scenes: The splits and the classes of the data set.
        train_images: How many images to train on. `None` means all.
        transform: A function that returns a transform (image, label). Its argument is whether images are for training.
        stacked: Whether the images and the labels of a batch are stacked into one tensor each.
        workers: Number of processes that decode images.
        skip_broken: Skip broken images.

    Raises:
        ValueError: If a split is empty, or has fewer images than `train_images`.
    """
    splits, classes = scenes
    for split in ("train", "validation"):
        if not len(splits.get(split, ())):
            raise ValueError(f"{name} has no {'training' if split == 'train' else split} images")
    train = splits["train"]
    if train_images is not None:
        train = train.part(first_of_shuffled(train_images, len(train), name))

    def open_split(split: str, training: bool) -> Images:
        dataset = train if split == "train" else splits[split]
        return DecodedImages(dataset, transform(training), stacked=stacked, workers=workers, skip_broken=skip_broken)

    return Data(
        train=open_split("train", True),
        validation=open_split("validation", False) if "test" in splits else None,
        test=open_split("test" if "test" in splits else "validation", False),
        num_classes=len(classes),
        classes=classes,
    )
