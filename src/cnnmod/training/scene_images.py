"""Batches of photographs with masks or boxes, image and label changed together."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resize
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image, Mask

from cnnmod.training.images import Batch, DecodedImages, draw_from
from cnnmod.training.recipe import IGNORED, Recipe
from cnnmod.training.scenes import Scenes


def scene_images(scenes: Scenes, recipe: Recipe, training: bool, workers: int, skip_broken: bool) -> DecodedImages:
    """The photographs of one split as the recipe wants them."""
    if recipe.task == "segmentation":
        return DecodedImages(SceneDataset(scenes, _Segmented(recipe, training), skip_broken), _stacked, workers)
    return DecodedImages(SceneDataset(scenes, _Detected(recipe, training), skip_broken), _listed, workers)


class SceneDataset(Dataset):  # pyright: ignore[reportMissingTypeArgument]  of tuples
    """(number, seed) → an image and its label, or the error of one that is broken."""

    def __init__(self, scenes: Scenes, prepare: Callable[[Any, Any], tuple[Tensor, Any]], skip_broken: bool) -> None:
        self.scenes, self.prepare, self.skip_broken = scenes, prepare, skip_broken

    def __len__(self) -> int:
        return len(self.scenes)

    def count(self, number: int) -> Counter[tuple[int | str, int]]:
        """What `Scenes.count` finds for an image; nothing if its label is broken, and such images are left out."""
        try:
            return self.scenes.count(self.scenes.labels[number])
        except ValueError:
            if not self.skip_broken:
                raise
            return Counter()

    def __getitem__(self, wanted: tuple[int, int | None]) -> tuple[Tensor, Any] | str:
        number, draw = wanted
        draw_from(draw, number)
        try:
            image, label = self.scenes.open(number)
            try:
                return self.prepare(Image(pil_to_tensor(image)), label)
            except ValueError as error:
                raise ValueError(f"{self.scenes.images[number]} {error}") from error
        except ValueError as error:
            if not self.skip_broken:
                raise
            return str(error)


class _Segmented:
    """An image and its mask, resized, in training cut out and mirrored; the image normalised."""

    def __init__(self, recipe: Recipe, training: bool) -> None:
        self.recipe, self.changes = recipe, training and recipe.augmentation == "scale_crop_flip"
        self.crop_size = recipe.crop_size or recipe.size
        steps: list[Any] = []
        if self.changes:
            fill: Any = {Image: 0, Mask: IGNORED}
            steps += [v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill), v2.RandomHorizontalFlip()]
            steps += [v2.RandomPhotometricDistort()] if recipe.photometric else []
        self.transform = v2.Compose(
            [
                *steps,
                v2.ToDtype({Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(recipe.mean, recipe.std),
            ]
        )

    def __call__(self, image: Image, mask_HW: Tensor) -> tuple[Tensor, Tensor]:
        size, mask = self.recipe.size, Mask(mask_HW)
        if self.changes:
            if image.shape[-2] < self.crop_size[0] or image.shape[-1] < self.crop_size[1]:
                raise ValueError(
                    f"has {image.shape[-2]} × {image.shape[-1]} pixels, fewer than are cut out: {self.crop_size}"
                )
            factor = float(torch.empty(1).uniform_(*self.recipe.scale))
            size = (round(factor * size[0]), round(factor * size[1]))
        image, mask = self.transform(resize(image, list(size)), resize(mask, list(size)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()


class _Detected:
    """An image from 0 to 1, in training mirrored, and its boxes; resizing is the network's."""

    def __init__(self, recipe: Recipe, training: bool) -> None:
        flips = training and recipe.augmentation == "flip"
        self.training = training
        steps = [v2.RandomHorizontalFlip()] if flips else []
        self.transform = v2.Compose([*steps, v2.ToDtype({Image: torch.float32, "others": None}, scale=True)])

    def __call__(self, image: Image, label: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size: Any = tuple(image.shape[-2:])
        kind = {"format": BoundingBoxFormat.XYXY, "canvas_size": size}
        boxes = BoundingBoxes(label["boxes"], **kind)
        image, boxes = self.transform(image, boxes)
        changed = label | {"boxes": boxes.as_subclass(Tensor)}
        if self.training:
            easy = changed["difficult"] == 0
            changed = {name: values[easy] for name, values in changed.items()}
        return image.as_subclass(Tensor), changed


def _whole(found: list[Any]) -> tuple[list[Any], list[str]]:
    return [one for one in found if not isinstance(one, str)], [one for one in found if isinstance(one, str)]


def _stacked(found: list[Any]) -> Batch:
    whole, broken = _whole(found)
    if not whole:
        return Batch([], [], broken)
    images, masks = zip(*whole, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), broken)


def _listed(found: list[Any]) -> Batch:
    whole, broken = _whole(found)
    return Batch([image for image, _ in whole], [label for _, label in whole], broken)
