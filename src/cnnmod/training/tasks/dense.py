"""Shared code of segmentation and detection: data sets of color photographs, and initialization of backbones."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from cnnmod.networks.features import load_backbone_
from cnnmod.records.progress import Progress
from cnnmod.training.images import Data, DecodedImages, Images, first_of_shuffled
from cnnmod.training.options import ImageOptions
from cnnmod.training.scene_layouts import SceneData
from cnnmod.training.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class BackboneTask(Task):
    """Base class of tasks on color photographs, whose networks have a backbone.

    Attributes:
        stacked: Whether the images and the labels of a batch are stacked into one tensor each.
    """

    stacked: ClassVar[bool] = True

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

    @abstractmethod
    def find(self, folder: Path) -> SceneData:
        """Return the splits and the classes of a data set."""

    @abstractmethod
    def transform(self, images: ImageOptions, training: bool) -> Callable[..., Any]:
        """Return a function from a photograph and its label to their tensors."""

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        """Without a test split, the validation split is the test split."""
        splits, classes = self.find(Path(place))
        for split in ("train", "validation"):
            if not len(splits.get(split, ())):
                raise ValueError(f"{place} has no {'training' if split == 'train' else split} images")
        train = splits["train"]
        if images.train_images is not None:
            train = train.part(first_of_shuffled(images.train_images, len(train), place))

        def open_split(split: str, training: bool) -> Images:
            dataset, transform = train if split == "train" else splits[split], self.transform(images, training)
            return DecodedImages(dataset, transform, stacked=self.stacked, workers=workers, skip_broken=skip_broken)

        return Data(
            train=open_split("train", True),
            validation=open_split("validation", False) if "test" in splits else None,
            test=open_split("test" if "test" in splits else "validation", False),
            num_classes=len(classes),
            classes=classes,
        )
