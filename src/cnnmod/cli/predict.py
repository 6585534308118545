"""The subcommand `predict`."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnmod.cli.app import Changes, Json, Network, RecipeName, Weights, print_json, print_text


def predict(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    network: Network = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    changes: Changes = (),
    out: Path = Path("predictions"),
    threshold: float = 0.5,
    skip_broken: bool = False,
    as_json: Json = False,
) -> None:
    """Draw the predictions of a network that `cnnmod train` wrote: colored classes with a legend, boxes with labels and
    scores, or the five most probable classes.

    Example: cnnmod predict runs/camvid/best.safetensors street.jpg --out pictures

    Example: cnnmod predict runs/bccd/best.safetensors data/bccd/JPEGImages --threshold 0.7

    Example: cnnmod predict image.jpg --network my_net:make --weights my_net.pth --recipe finetune --set image_size=64

    Args:
        files: A checkpoint (`last.safetensors` or `best.safetensors` in a run's folder; not with `--weights`), followed
            by image files or folders of images.
        out: The output folder. Each image is drawn as NAME.png, and several images also on one
            sheet, contact_sheet.png. The folder is created if necessary.
        threshold: Boxes with a lower score are not drawn.
        skip_broken: Skip images that cannot be read, and list them. Otherwise the first one is an error.
    """
    from cnnmod.records.files import make_folder
    from cnnmod.report.contact_sheet import NAME, contact_sheet
    from cnnmod.report.prediction import prediction_figure
    from cnnmod.report.progress import progress_bars
    from cnnmod.training.images import Broken
    from cnnmod.training.predict import Predictor

    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, not {threshold}")
    checkpoint, places = (None, files) if weights is not None else (next(iter(files), None), files[1:])
    if not places:
        raise ValueError("predict needs at least one image or folder after the checkpoint")
    images = [image for path in places for image in _files(path)]
    pictures = [out / f"{image.stem}.png" for image in images]
    if len(images) > 1 and out / NAME in pictures:
        raise ValueError(f"the image {images[pictures.index(out / NAME)]} has the name of the contact sheet, {NAME}")
    for number, picture in enumerate(pictures):
        if (first := pictures.index(picture)) < number:
            raise ValueError(f"{images[first]} and {images[number]} would both be drawn as {picture.name}")
        if picture.resolve() == images[number].resolve():
            raise ValueError(
                f"the picture would overwrite the image {images[number]}; --out must be another folder than {out}"
            )
    predictor = Predictor.load(checkpoint, network=network, weights=weights, recipe=recipe, changes=changes)
    make_folder(out)
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    with progress_bars(len(images) > 1) as progress:
        predictions = predictor.predict(images, threshold, skip_broken)
        for done, ((file, prediction), picture) in enumerate(zip(predictions, pictures, strict=True), 1):
            if isinstance(prediction, Broken):
                values.append({"image": str(file), "broken": prediction.reason})
                lines.append(prediction.reason)
            else:
                prediction_figure(file, prediction, predictor.name, picture)
                values.append({"image": str(file), "picture": str(picture), **prediction.values(predictor.name)})
                lines.append(f"{picture}: {prediction.text(predictor.name)}")
            progress("predicting", done, len(images))
    if all("broken" in value for value in values):
        raise ValueError(f"all {len(values)} images are broken; the first error: {values[0]['broken']}")
    if len(images) > 1:
        drawn = [Path(value["picture"]) for value in values if "picture" in value]
        count = contact_sheet(drawn, out / NAME)
        lines.insert(0, f"{out / NAME}: a sheet with {count} pictures")
    if as_json:
        print_json(values)
        return
    for line in lines[:20]:
        print_text(line)
    if len(values) > 20:
        print_text(f"… and {len(values) - 20} more in {out.resolve()}")


def _files(path: Path) -> list[Path]:
    from cnnmod.training.decode import IMAGE_SUFFIXES, is_image_file

    if not path.exists():
        raise FileNotFoundError(f"the image or folder {path} does not exist")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if is_image_file(file))
    if not files:
        raise ValueError(f"the folder {path} contains no images ({', '.join(IMAGE_SUFFIXES)})")
    return files
