"""predict: what a trained network says of images."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnmod.cli.app import Json, app, console, print_json
from cnnmod.report.prediction import prediction_figure
from cnnmod.report.progress import progress_bars
from cnnmod.training.decode import IMAGE_SUFFIXES, is_image_file
from cnnmod.training.images import Broken
from cnnmod.training.predict import Predictor


@app.command
def predict(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path = Path("predictions"),
    threshold: float = 0.5,
    skip_broken: bool = False,
    as_json: Json = False,
) -> None:
    """Draw what a network that `cnnmod train` wrote says of images: coloured classes with a legend, boxes with labels
    and scores, or the five likeliest classes.

    Example: cnnmod predict runs/camvid/best.safetensors street.jpg --out pictures

    Example: cnnmod predict runs/bccd/best.safetensors data/bccd/JPEGImages --threshold 0.7

    Args:
        checkpoint: `last.safetensors` or `best.safetensors` in a run's folder.
        images: Image files, or folders of them.
        out: The folder that the pictures are written to, each as NAME.png; it is made if need be.
        threshold: The lowest score of a box that is drawn.
        skip_broken: Leave out images that cannot be read, and name them, instead of stopping at the first.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, not {threshold}")
    if not images:
        raise ValueError("predict takes images or folders of them after the checkpoint")
    files = [file for place in images for file in _files(place)]
    pictures = [out / f"{file.stem}.png" for file in files]
    for number, picture in enumerate(pictures):
        if (first := pictures.index(picture)) < number:
            raise ValueError(f"{files[first]} and {files[number]} would both be drawn as {picture.name}")
        if picture.resolve() == files[number].resolve():
            raise ValueError(f"the picture of {files[number]} would take its place; write to another folder than {out}")
    predictor = Predictor.load(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    said: list[dict[str, Any]] = []
    lines: list[str] = []
    with progress_bars(len(files) > 1) as progress:
        found = predictor.predict(files, threshold, skip_broken)
        for done, ((file, prediction), picture) in enumerate(zip(found, pictures, strict=True), 1):
            if isinstance(prediction, Broken):
                said.append({"image": str(file), "broken": prediction.reason})
                lines.append(prediction.reason)
            else:
                prediction_figure(file, prediction, predictor.name, picture)
                said.append({"image": str(file), "picture": str(picture), **prediction.values(predictor.name)})
                lines.append(f"{picture}: {prediction.text(predictor.name)}")
            progress("predicting", done, len(files))
    if all("broken" in one for one in said):
        raise ValueError(f"all {len(said)} images are broken; the first error: {said[0]['broken']}")
    if as_json:
        print_json(said)
        return
    for line in lines[:20]:
        console.print(line)
    if len(said) > 20:
        console.print(f"… and {len(said) - 20} more in {out.resolve()}")


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise FileNotFoundError(f"there is no image or folder {place}")
    if place.is_file():
        return [place]
    files = sorted(file for file in place.iterdir() if is_image_file(file))
    if not files:
        raise ValueError(f"the folder {place} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return files
