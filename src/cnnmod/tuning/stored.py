"""write_tuned, read_tuned: the result of `tune` in its folder. The network is not needed to read it."""

import os
from pathlib import Path
from typing import Any

from cnnmod.method.choices import SCHEMA, write_plan
from cnnmod.records.parse import read_values
from cnnmod.tuning.folder import Settings, TuneFolder
from cnnmod.tuning.losses import LossTable
from cnnmod.tuning.result import Front, Tuned
from cnnmod.tuning.space import Space
from cnnmod.tuning.times import TimeTable


def is_tune_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder of `tune`, finished or not."""
    return TuneFolder(Path(path)).file("settings").is_file()


def write_tuned(tuned: Tuned, folder: TuneFolder) -> None:
    """Write the plans into the folder that has the measurements.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.write("space", tuned.space)
    folder.write("front", Front(list(tuned.front)))
    chosen = tuned.chosen
    write_plan(
        tuned.choices,
        folder.file("plan"),
        runtime=tuned.runtime,
        budget=chosen.budget,
        time=chosen.time,
        dense_ms=tuned.times.dense_ms,
    )


def read_tuned(path: str | os.PathLike[str]) -> tuple[Tuned, Settings]:
    """Return the result of a finished `tune` and its settings.

    Args:
        path: The folder.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the folder is not one of `tune`, `tune` has not finished, or a file is not valid.
    """
    folder = TuneFolder(Path(path))
    settings, space = folder.read("settings", Settings), folder.read("space", Space)
    times, front = folder.read("times", TimeTable), folder.read("front", Front)
    plan = folder.file("plan")
    notes: Any = read_values(plan, SCHEMA).get("notes") if plan.is_file() else {}
    budget = notes.get("budget") if isinstance(notes, dict) else None
    chosen = next((made for made in front.plans if made.budget == budget), None) if front is not None else None
    if settings is None or space is None or times is None or front is None or chosen is None:
        raise ValueError(f"{folder.path} has no finished result of tune; run `cnnmod tune` with this folder again")
    losses = None if chosen.cross_entropy is None else folder.read("losses", LossTable)
    return Tuned(space, settings.runtime, times, losses, chosen, tuple(front.plans)), settings
