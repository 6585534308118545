"""The named recipes: the recipes of the paper, a short modern one, one for fine-tuning, and four for
small hardware."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cnnmod.method.config import MoDConfig
from cnnmod.networks.registry import import_function
from cnnmod.records.changes import unknown_name
from cnnmod.training.options import ImageOptions, Networks, Optimization, System
from cnnmod.training.recipe import Recipe
from cnnmod.training.tasks import Classification, Detection, Segmentation


def recipe(
    name: str, changes: Sequence[str] = (), *, network: str | None = None, weights: str | Path | None = None
) -> Recipe:
    """Return a recipe by name, with some of its fields changed.

    Args:
        name: One of `RECIPES`, or `"package.module:function"`, which imports the module and calls the function.
        changes: Changes as for `Recipe.changed`.
        network: The dense network to train instead of the networks of the recipe and their arguments.
        weights: A file with the weights of the dense network, from which all rows start.

    Raises:
        ValueError: If the recipe or a field is unknown (the error names the nearest ones), or a value is invalid.

    Examples:
        >>> recipe("digits", ["epochs=3", "config.order=index"]).networks.config.order
        'index'
        >>> recipe("digits", ["epoch=3"])
        Traceback (most recent call last):
        ...
        ValueError: unknown recipe field 'epoch'; did you mean optimization.epochs, optimization.warmup_epochs?
    """
    if ":" in name:
        found = _user_recipe(name)
    elif name in RECIPES:
        found = RECIPES[name]()
    else:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    networks = found.networks
    if network is not None:
        networks = replace(networks, baseline=network, network=network, network_args={})
    if weights is not None:
        networks = replace(networks, weights=str(Path(weights).resolve()))
    return replace(found, networks=networks).changed(changes)


def digits() -> Recipe:
    """scikit-learn's scanned digits, in one minute: ResNet18 at a quarter of its width, with up to four blocks per
    module."""
    return Recipe(
        networks=Networks(
            baseline="resnet18_cifar",
            network="resnet18_cifar_mod",
            network_args={"channels": [16, 32, 64, 128], "layers": [2, 4, 4, 1]},
            config=MoDConfig(c=8, reduction=4),
        ),
        task=Classification(),
        images=ImageOptions(image_size=8, in_channels=1, mean=(0.0,), std=(1.0,)),
        optimization=Optimization(
            epochs=20,
            batch_size=64,
            optimizer="sgd",
            learning_rate=0.05,
            weight_decay=5e-4,
            schedule="cosine",
            warmup_epochs=5,
        ),
    )


def cifar10_fast() -> Recipe:
    """CIFAR-10 in ten epochs, for two cores: ResNet18 at a quarter of its width. The optimizer is Muon, which needs
    fewer epochs than SGD."""
    base = cifar10()
    return replace(
        base,
        networks=replace(base.networks, network_args={"channels": [16, 32, 64, 128]}, config=MoDConfig(reduction=4)),
        task=Classification(augmentation="crop_flip"),
        optimization=Optimization(
            epochs=10, batch_size=64, optimizer="muon", learning_rate=0.02, weight_decay=0.01, schedule="cosine"
        ),
        system=System(channels_last=True),
    )


def cifar10() -> Recipe:
    """The paper's recipe for CIFAR-10: 90/10 split, best checkpoint. The rest follows other papers of its authors."""
    return Recipe(
        networks=Networks(baseline="resnet18_cifar", network="resnet18_cifar_mod"),
        task=Classification(augmentation="crop_flip", validation_fraction=0.1),
        images=ImageOptions(image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        optimization=Optimization(
            epochs=200, batch_size=128, learning_rate=0.1, weight_decay=1e-4, schedule="step", milestones=(90, 136)
        ),
    )


def cifar100() -> Recipe:
    """The paper's recipe for CIFAR-100, and for VGG on CIFAR-10 and CIFAR-100: ×0.2 at 60, 120 and 160, weight decay
    5e-4."""
    base = cifar10()
    return replace(
        base, optimization=replace(base.optimization, weight_decay=5e-4, milestones=(60, 120, 160), decay=0.2)
    )


def imagenet() -> Recipe:
    """The paper's recipe for ResNets on ImageNet: 100 epochs, batch 256, SGD 0.1, ×0.1 every 30 epochs."""
    return Recipe(
        networks=Networks(baseline="resnet50", network="resnet75_mod"),
        task=Classification(augmentation="resized_crop"),
        images=ImageOptions(image_size=224),
        optimization=Optimization(
            epochs=100, batch_size=256, learning_rate=0.1, weight_decay=1e-4, schedule="step", milestones=(30, 60, 90)
        ),
        system=System(channels_last=True),
    )


def imagenet_mobilenetv2() -> Recipe:
    """MobileNetV2 on ImageNet. The paper does not state a recipe. This is the usual one: 150 epochs, batch 256, cosine
    from 0.05, weight decay 4e-5."""
    return replace(
        imagenet(),
        networks=Networks(baseline="mobilenetv2_100", network="mobilenetv2_mod_l"),
        optimization=Optimization(epochs=150, batch_size=256, learning_rate=0.05, weight_decay=4e-5, schedule="cosine"),
    )


def imagenet_short() -> Recipe:
    """A short modern recipe for ImageNet: 100 epochs at 160 pixels, LAMB, cosine, mixup and CutMix. It is A3 of "ResNet
    strikes back" (Wightman, Touvron, Jégou 2021, arXiv 2110.00476), with label smoothing instead of binary
    cross-entropy."""
    return replace(
        imagenet(),
        task=Classification(
            augmentation="resized_crop",
            auto_augment="rand-m6-mstd0.5-inc1",
            crop_pct=0.95,
            label_smoothing=0.1,
            mixup=0.1,
            cutmix=1.0,
        ),
        images=ImageOptions(image_size=160),
        optimization=Optimization(
            epochs=100,
            batch_size=2048,
            optimizer="lamb",
            learning_rate=8e-3,
            weight_decay=0.02,
            decay_norms=False,
            schedule="cosine",
            warmup_epochs=5,
        ),
        system=System(channels_last=True, precision="bf16"),
    )


def finetune() -> Recipe:
    """Your own trained network on your own images (`--network`, `--weights`): ten epochs from its weights, with the
    dense network as the teacher. The MoD blocks start as the identity."""
    return Recipe(
        networks=Networks(baseline="resnet50", network="resnet50", config=MoDConfig(identity_start=True)),
        task=Classification(
            augmentation="resized_crop",
            validation_fraction=0.1,
            teacher="dense",
            distill_weight=0.5,
            distill_temperature=2.0,
        ),
        images=ImageOptions(image_size=224),
        optimization=Optimization(
            epochs=10,
            batch_size=64,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.05,
            decay_norms=False,
            mod_lr_scale=30.0,
            schedule="cosine",
            warmup_epochs=0,
        ),
        system=System(channels_last=True),
    )


def cityscapes() -> Recipe:
    """The paper's recipe for Cityscapes: FCN-ResNet86-MoD and FCN-ResNet50, 80,000 steps of 8 crops of 512 × 1024."""
    return Recipe(
        networks=Networks(baseline="fcn_resnet50", network="fcn_resnet86_mod"),
        task=Segmentation(augmentation="scale_crop_flip", scale=(0.5, 2.0), crop_size=(512, 1024), photometric=True),
        images=ImageOptions(image_size=(1024, 2048)),
        optimization=Optimization(
            epochs=216, batch_size=8, learning_rate=0.01, weight_decay=5e-4, schedule="poly", decay=0.9
        ),
        system=System(sync_batch_norm=True),
    )


def camvid() -> Recipe:
    """CamVid at half its size, from scratch on two cores: FCN with ResNet18 at half its width."""
    return Recipe(
        networks=Networks(
            baseline="fcn",
            network="fcn",
            network_args={
                "backbone": "resnet18",
                "backbone_args": {"channels": [32, 64, 128, 256]},
                "head_channels": 64,
            },
            config=MoDConfig(c=32, reduction=4),
        ),
        task=Segmentation(
            augmentation="scale_crop_flip",
            scale=(0.75, 1.5),
            crop_size=(160, 224),
            classes=(
                *("sky", "building", "pole", "road", "pavement", "tree"),
                *("sign", "fence", "car", "pedestrian", "bicyclist"),
            ),
            ignore=11,
        ),
        images=ImageOptions(image_size=(180, 240)),
        optimization=Optimization(
            epochs=30, batch_size=8, optimizer="muon", learning_rate=0.02, weight_decay=0.01, schedule="cosine"
        ),
        system=System(channels_last=True),
    )


def voc() -> Recipe:
    """The paper's recipe for Pascal VOC: Faster R-CNN with ResNet86-MoD and with ResNet50, 600 × 1000 pixels. The
    backbones are pretrained (`backbone_weights`), and their norms are frozen."""
    return Recipe(
        networks=Networks(
            baseline="faster_rcnn_resnet50", network="faster_rcnn_resnet86_mod", network_args={"frozen_norms": True}
        ),
        task=Detection(augmentation="flip"),
        images=ImageOptions(image_size=(600, 1000)),
        optimization=Optimization(
            epochs=12,
            batch_size=2,
            learning_rate=0.01,
            weight_decay=1e-4,
            schedule="step",
            milestones=(8, 11),
            warmup_epochs=1,
        ),
    )


def bccd() -> Recipe:
    """Blood cells at half their size, from scratch on two cores: Faster R-CNN with ResNet18 at half its width."""
    return Recipe(
        networks=Networks(
            baseline="faster_rcnn",
            network="faster_rcnn",
            network_args={
                "backbone": "resnet18",
                "backbone_args": {"channels": [32, 64, 128, 256]},
                "pyramid_channels": 64,
                "head_channels": 256,
                "rpn_post_nms_top_n_train": 500,
                "rpn_post_nms_top_n_test": 300,
                "box_batch_size_per_image": 128,
            },
            config=MoDConfig(c=32, reduction=4),
        ),
        task=Detection(augmentation="flip"),
        images=ImageOptions(image_size=(240, 320)),
        optimization=Optimization(
            epochs=12,
            batch_size=8,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.01,
            schedule="cosine",
            warmup_epochs=1,
            clip_grad=10.0,
        ),
        system=System(channels_last=True),
    )


def _user_recipe(name: str) -> Recipe:
    result = import_function(name, f"the recipe {name!r}", "returns a Recipe")()
    if not isinstance(result, Recipe):
        raise ValueError(f"{name!r} returned a {type(result).__name__}, not a Recipe")
    return result


RECIPES: dict[str, Callable[[], Recipe]] = {
    factory.__name__: factory
    for factory in (
        *(digits, finetune, cifar10_fast, cifar10, cifar100, imagenet, imagenet_mobilenetv2, imagenet_short),
        *(cityscapes, camvid, voc, bccd),
    )
}
