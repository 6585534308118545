"""Read Parquet files as on the Hugging Face Hub. Each row has the content and the label of an image."""

import glob
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnnmod.records.progress import Progress
from cnnmod.training.decode import why_unreadable
from cnnmod.training.sources import Source, Sources, same_classes
from cnnmod.training.splits import files_by_split

_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class _File:
    """A Parquet file.

    Attributes:
        path: The path of the file.
        image_column: The name of the image column.
        label_column: The name of the label column.
        labels: The labels, either all integers or all strings.
        names: The names of the classes in the metadata, or `None`.
    """

    path: Path
    image_column: str
    label_column: str
    labels: list[int] | list[str]
    names: tuple[str, ...] | None

    @property
    def has_names_as_labels(self) -> bool:
        return isinstance(self.labels[0], str)


def find_parquet(folder: Path, progress: Progress) -> Sources | None:
    """Find the Parquet files in a folder. Return `None` if there are none.

    Labels are integers or class names. Class names are numbered in alphabetical order of the names in the training
    images. Images are structs with the field `bytes`, as `datasets.Image` stores them, or binary values.

    Raises:
        ValueError: If a file cannot be read, a column is missing, a label is invalid, or the files have different
            classes. The error names the file, and the row if there is one.
    """
    paths = files_by_split(folder, [".parquet"])
    if not paths:
        return None
    splits = {split: [file for file in map(_read, split_paths) if file.labels] for split, split_paths in paths.items()}
    classes = _classes(splits)
    return Sources({split: _source(split, files, classes, progress) for split, files in splits.items()}, classes)


def _read(path: Path) -> _File:
    import datasets
    from pyarrow import parquet

    with _errors_of_arrow(path), path.open("rb") as opened:
        file = parquet.ParquetFile(opened)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        features = datasets.Features.from_arrow_schema(schema)
    image_column, label_column = (
        next((name for name in accepted if name in schema.names), None) for accepted in (_IMAGE_COLUMNS, _LABEL_COLUMNS)
    )
    if image_column is None or label_column is None:
        raise ValueError(
            f"{path} has the columns {', '.join(schema.names)}; it needs one of {', '.join(_IMAGE_COLUMNS)} and one of "
            f"{', '.join(_LABEL_COLUMNS)}"
        )
    _check_image_type(path, image_column, schema.field(image_column).type)
    with _errors_of_arrow(path), path.open("rb") as opened:
        labels = parquet.ParquetFile(opened).read(columns=[label_column]).column(label_column)
    if len(labels) != rows:
        raise ValueError(f"{path} is broken: it has {rows} rows and {len(labels)} labels")
    feature = features[label_column]
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return _File(path, image_column, label_column, _checked_labels(path, label_column, labels), names)


def _check_image_type(path: Path, column: str, column_type: Any) -> None:
    from pyarrow import types

    if types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0:
        column_type = column_type.field("bytes").type
    if not (types.is_binary(column_type) or types.is_large_binary(column_type) or types.is_null(column_type)):
        raise ValueError(f"{path} has images of type {column_type} in {column}; images must be binary (encoded files)")


def _checked_labels(path: Path, column: str, labels: Any) -> list[Any]:
    from pyarrow import types

    if not len(labels):
        return []
    label_type = labels.type.value_type if types.is_dictionary(labels.type) else labels.type
    if labels.null_count:
        row = labels.is_null().index(True).as_py()
        raise ValueError(f"{path}, row {row} has no {column}: it is null")
    if not (types.is_integer(label_type) or types.is_string(label_type) or types.is_large_string(label_type)):
        raise ValueError(
            f"{path}, row 0 has the {column} {str(labels[0].as_py())[:50]} of type {label_type}; labels must be "
            "integers or class names as strings"
        )
    with _errors_of_arrow(path):
        return labels.cast(label_type).to_pylist()


def _classes(splits: dict[str, list[_File]]) -> tuple[str, ...] | None:
    files = list(itertools.chain.from_iterable(splits.values()))
    for file in files:
        if file.label_column != files[0].label_column:
            raise ValueError(
                f"{files[0].path} has its labels in the column {files[0].label_column}, {file.path} in "
                f"{file.label_column}"
            )
        if file.has_names_as_labels != files[0].has_names_as_labels:
            named, numbered = (file, files[0]) if file.has_names_as_labels else (files[0], file)
            raise ValueError(f"{named.path} has strings as labels, {numbered.path} has integers")
    if not files or not files[0].has_names_as_labels:
        return same_classes([(file.path, file.names) for file in files]) if files else None
    training_files = splits.get("train") or files
    return tuple(sorted({str(label) for file in training_files for label in file.labels}))


def _source(split: str, files: Sequence[_File], classes: tuple[str, ...] | None, progress: Progress) -> Source:
    numbers = {name: number for number, name in enumerate(classes or ())}
    labels: list[int] = []
    for file in files:
        for row, label in enumerate(file.labels):
            if isinstance(label, str) and label not in numbers:
                raise ValueError(f"{file.path}, row {row} has the label {label!r}, which no training image has")
            labels.append(numbers[label] if isinstance(label, str) else label)
    starts = list(itertools.accumulate((len(file.labels) for file in files), initial=0))[:-1]
    images: list[Any] = []
    for file in files:
        progress(f"reading {split} files", len(images), len(files))
        images.append(_images(file))
    progress(f"reading {split} files", len(files), len(files))
    return Source(labels, partial(_fetch, images, starts), partial(_name, [file.path for file in files], starts))


def _images(file: _File) -> Any:
    """Return the image column, memory-mapped from the Arrow cache of `datasets`."""
    import datasets

    with _quiet(), _errors_of_arrow(file.path):
        table = datasets.Dataset.from_parquet(glob.escape(str(file.path)), columns=[file.image_column])
    assert isinstance(table, datasets.Dataset)
    if len(table) != len(file.labels):
        raise ValueError(f"{file.path} is broken: it has {len(file.labels)} labels and {len(table)} images")
    return table.with_format("arrow")


@contextmanager
def _errors_of_arrow(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow and datasets raise many types
        with path.open("rb") as opened:
            reason = why_unreadable(opened.read(100))
        reason = reason or str(error.__cause__ or error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a Parquet file: {' '.join(reason.split())}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the progress bars and logs of `datasets`. Errors are still raised."""
    import datasets

    shown, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


# Module-level functions, since worker processes cannot unpickle lambdas.
def _fetch(images: Sequence[Any], starts: Sequence[int], number: int) -> bytes | None:
    file = bisect_right(starts, number) - 1
    value = images[file][number - starts[file]].column(0)[0].as_py()
    return value["bytes"] if isinstance(value, dict) else value


def _name(paths: Sequence[Path], starts: Sequence[int], number: int) -> str:
    file = bisect_right(starts, number) - 1
    return f"{paths[file]}, row {number - starts[file]}"
