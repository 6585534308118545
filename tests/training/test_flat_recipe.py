"""Committed files with flat recipes are read, and their values do not change."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnnmod.measure.experiment import read_experiment
from cnnmod.records.parse import parse
from cnnmod.training.flat_recipe import is_flat, nested
from cnnmod.training.folder import read_run
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import recipe
from cnnmod.training.run import read_result

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNS = [
    path
    for path in sorted(BENCHMARKS.glob("runs/**/*-seed*/run.json"))
    if is_flat(json.loads(path.read_text())["run"]["recipe"])
]
ACCURACIES = sorted(
    path
    for path in BENCHMARKS.glob("results/*.json")
    if json.loads(path.read_text()).get("schema") == "cnnmod.accuracy/1"
)
PLANS = [*BENCHMARKS.glob("pays/*.json"), *BENCHMARKS.glob("runs/pays/*/run.json")]
# The defaults of task fields when these files were written.
DEFAULTS: dict[str, Any] = {
    "task": "classification",
    "scale": [1.0, 1.0],
    "crop_size": None,
    "photometric": False,
    "classes": [],
    "ignore": 255,
    "backbone_weights": None,
    "aux_weight": 0.4,
    "auto_augment": None,
    "random_erasing": 0.0,
    "crop_pct": 0.875,
    "validation_fraction": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "teacher": None,
    "distill_weight": 0.5,
    "distill_temperature": 1.0,
}


def value_of(made: Recipe, name: str) -> Any:
    values = made.to_dict()
    if name == "task":
        return values["task"]["name"]
    found = [part[name] for part in values.values() if name in part]
    assert len(found) <= 1
    return found[0] if found else DEFAULTS[name]


def check_same(made: Recipe, flat: dict[str, Any]) -> None:
    for name, value in flat.items():
        found = value_of(made, name)
        if name == "config":
            found = {field: found[field] for field in value}
        assert found == value, name
    assert Recipe.from_dict(made.to_dict()) == made


def test_committed_files_exist() -> None:
    assert len(RUNS) > 50
    assert len(ACCURACIES) > 10
    assert len(PLANS) >= 2


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(BENCHMARKS).parent))
def test_runs_are_read(path: Path) -> None:
    values = json.loads(path.read_text())["run"]
    run = read_run(path.parent)
    check_same(run.recipe, values["recipe"])
    assert (run.row, run.seed, run.data) == (values["row"], values["seed"], values["data"])
    written = path.parent / "result.json"
    if written.exists():
        content = json.loads(written.read_text())
        found = read_result(written, run.recipe.task)
        assert (found.seconds, found.parameters) == (content["seconds"], content["parameters"])
        assert vars(found.accuracy) | content["accuracy"] == vars(found.accuracy)


@pytest.mark.parametrize("path", ACCURACIES, ids=lambda path: path.stem)
def test_accuracy_files_are_read(path: Path) -> None:
    values = json.loads(path.read_text())
    found = read_experiment(path)
    check_same(found.recipe, values["recipe"])
    for row, written in zip(found.rows, values["rows"], strict=True):
        for result, content in zip(row.results, written["results"], strict=True):
            assert vars(result.accuracy) | content["accuracy"] == vars(result.accuracy)


def test_int8_file_is_read() -> None:
    """int8.json has the recipe of the measured runs."""
    flat = json.loads((BENCHMARKS / "results" / "int8.json").read_text())["recipe"]
    check_same(parse(Recipe, flat, "int8.json"), flat)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_changes_in_plans_are_applied(path: Path) -> None:
    plan = json.loads(path.read_text())
    for arm in plan["arms"].values():
        changes = [*plan["changes"], *arm["changes"]]
        made = recipe(plan["recipe"], changes)
        for name, text in dict(change.split("=", 1) for change in changes).items():  # the last change of a field holds
            holder = made.networks.config.to_dict() if name.startswith("config.") else None
            if name.startswith("network_args."):
                found = made.networks.network_args[name.removeprefix("network_args.")]
            else:
                found = value_of(made, name) if holder is None else holder[name.removeprefix("config.")]
            try:
                expected = json.loads(text)
            except ValueError:
                expected = text
            assert found == expected, name


def test_fields_of_other_tasks_are_dropped() -> None:
    flat = {"baseline": "a", "network": "b", "task": "detection", "augmentation": "flip", "crop_pct": 0.5, "epochs": 3}
    assert nested(flat) == {
        "networks": {"baseline": "a", "network": "b"},
        "task": {"name": "detection", "augmentation": "flip"},
        "images": {},
        "optimization": {"epochs": 3},
        "system": {},
    }


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"task": "keypoints"}, "task must be one of classification, segmentation, detection, not 'keypoints'"),
        ({"epoch": 3}, "recipe field 'epoch'"),
    ],
)
def test_invalid_flat_recipes_raise(values: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        nested({"baseline": "a", **values})
