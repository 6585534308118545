"""Fine-tune a trained network with the recipe `finetune` and several learning rates for its MoD blocks.

The network is a small ResNet, trained on 10,000 images of CIFAR-10. The class folder has 2,000 other images. A run with
`mod_lr_scale=1` trains the MoD blocks with the learning rate of the other weights. Needs CIFAR-10 as Parquet, in
../shared/data or $CNNMOD_DATA:

    OMP_NUM_THREADS=1 python benchmarks/finetune_rates.py    # 10 minutes on a core; writes results/finetune_rates.json
"""

import io
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_resnet import small_resnet
from torch import nn
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, to_dtype

import cnnmod
from cnnmod.networks import load
from cnnmod.records.files import check_writable, write_whole
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role
from cnnmod.report.progress import progress_bars
from cnnmod.training.data import open_data
from cnnmod.training.folder import Run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.run import RunProgress, run_training

RESULT = Path(__file__).parent / "results" / "finetune_rates.json"
NETWORK = "small_resnet:small_resnet"
TRAINED_ON, FOLDER_IMAGES, TEST_IMAGES, EPOCHS, BATCH = 10_000, 2_000, 2_000, 4, 64
LAYERS = (3, 3, 3)
SEEDS = (0, 1)
RUNS: tuple[tuple[Role, int], ...] = (("control", 1), ("mod", 1), ("mod", 10), ("mod", 30))  # row, mod_lr_scale
CHANGES = ("image_size=32", f"network_args.layers={list(LAYERS)}", "crop_pct=1")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # as in the recipe


def encoded(split: str, start: int, number: int) -> list[tuple[bytes, int]]:
    """Return images of a split as files in memory, with their labels."""
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]  not a dependency of cnnmod

    folder = Path(os.environ.get("CNNMOD_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist: set CNNMOD_DATA to the folder that contains cifar10")
    table = parquet.read_table(folder / f"{split}-00000-of-00001.parquet").slice(start, number).to_pydict()
    return [(image["bytes"], label) for image, label in zip(table["img"], table["label"], strict=True)]


def write_folder(folder: Path) -> None:
    """Write class folders, as a user has them."""
    for split, images in {
        "train": encoded("train", TRAINED_ON, FOLDER_IMAGES),
        "val": encoded("test", 0, TEST_IMAGES),
    }.items():
        for number, (content, label) in enumerate(images):
            path = folder / split / str(label) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_weights(path: Path, progress: Any) -> None:
    """Train the dense network, with flips as the only augmentation, and write its state dict."""
    torch.manual_seed(0)
    images = encoded("train", 0, TRAINED_ON)
    pixels = torch.stack([pil_to_tensor(Image.open(io.BytesIO(content))) for content, _ in images])
    x_NCHW = normalize(to_dtype(pixels, torch.float32, scale=True), MEAN, STD)
    labels = torch.tensor([label for _, label in images])
    model = small_resnet(layers=LAYERS, num_classes=10)
    steps = EPOCHS * -(-TRAINED_ON // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for number, batch in enumerate(torch.randperm(TRAINED_ON).split(BATCH)):
            flipped = torch.rand(len(batch), 1, 1, 1) < 0.5
            images_NCHW = torch.where(flipped, x_NCHW[batch].flip(3), x_NCHW[batch])
            loss = nn.functional.cross_entropy(model(images_NCHW), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress("the network itself", epoch * -(-TRAINED_ON // BATCH) + number + 1, steps)
    torch.save(model.state_dict(), path)


def fine_tuned(folder: Path, row: Role, used: Recipe, seed: int, progress: RunProgress) -> dict[str, Any]:
    """Fine-tune one network, and return its validation losses, its accuracy and the gains of its MoD blocks."""
    data = open_data(folder / "photos", used)
    out = folder / f"{row}-{used.optimization.mod_lr_scale}-{seed}"
    result = run_training(Run(recipe=used, row=row, seed=seed, data="photos"), out, data, progress=progress)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    blocks = cnnmod.mod_blocks(load(out / "last.safetensors", factory=NETWORK, size=used.images.size)).values()
    gains = [float(block.gain_K.detach().abs().max()) for block in blocks if block.gain_K is not None]
    return {
        "row": row,
        "mod_lr_scale": used.optimization.mod_lr_scale,
        "seed": seed,
        "largest_gain": max(gains, default=None),
        "validation_losses": [line["validation_loss"] for line in lines if "validation_loss" in line],
        "top1_pct": result.accuracy.value,
        "worth": None if result.worth is None else asdict(result.worth),
    }


def main() -> None:
    """Train all networks, and write the result file."""
    check_writable(RESULT)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, progress_bars() as progress:
        folder = Path(name)
        write_folder(folder / "photos")
        write_weights(folder / "weights.pth", progress)
        for seed in SEEDS:
            for row, scale in RUNS:
                changes = [*CHANGES, f"mod_lr_scale={scale}"]
                used = recipe("finetune", changes, network=NETWORK, weights=folder / "weights.pth")
                rows.append(fine_tuned(folder, row, used, seed, progress))
    content = {
        "provenance": asdict(Provenance.now(torch.device("cpu"), torch.get_num_threads())),
        "recipe": {"name": "finetune", "changes": CHANGES, "network": NETWORK, "trained_on": TRAINED_ON},
        "folder_images": FOLDER_IMAGES,
        "test_images": TEST_IMAGES,
        "rows": rows,
    }
    write_whole(RESULT, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
