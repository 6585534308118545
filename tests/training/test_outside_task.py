"""A user's task, tests/bars.py, supports everything that built-in tasks support. Invalid tasks are refused."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bars
from bars import AngleOfBar, Error
from cnnmod.cli import run
from cnnmod.measure.experiment import read_experiment
from cnnmod.networks import load
from cnnmod.training import Predictor, evaluate, open_data, recipe, run_training
from cnnmod.training.folder import Run, read_run
from cnnmod.training.scores import Score
from cnnmod.training.tasks import TASKS, Classification, Task, base, find_task, register_task

BARS = "bars:small"


def distance(one: float, other: float) -> float:
    return min((one - other) % 180, (other - one) % 180)


@pytest.mark.slow
def test_user_task_works_on_the_command_line(tmp_path: Path, capsys: Any, output: Any) -> None:
    start = ["train", BARS, "--data", "bars"]
    out, checkpoint = tmp_path / "run", str(tmp_path / "run" / "best.safetensors")
    found = output([*start, "--out", str(out), "--workers", "0", "--set", "task.held_out=10"])
    assert found["accuracy"]["images"] == 20
    assert found["accuracy"]["error_deg"] < 12  # random predictions have an error of 45 degrees
    written = json.loads((out / "run.json").read_text())
    assert written["run"]["recipe"]["task"] == {"name": "angle", "held_out": 10}
    assert read_run(out).recipe == recipe(BARS, ["held_out=10"])
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    errors = [line["validation_error_deg"] for line in logged if "validation_error_deg" in line]
    assert len(errors) == 12
    best = load(checkpoint)
    data = open_data("bars", read_run(out).recipe)
    assert data.validation is not None
    chosen = evaluate(best, data.validation, 2, task=read_run(out).recipe.task)
    assert isinstance(chosen, Error)
    assert chosen.error_deg == pytest.approx(min(errors), abs=1e-3)  # the best checkpoint has the smallest error

    assert output(["evaluate", checkpoint, "--data", "bars"]) == found["accuracy"]
    run(["evaluate", checkpoint, "--data", "bars"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"off by {found['accuracy']['error_deg']:.1f}° of 20 test images" in said

    angles = (20, 100, 155)
    images = bars.files(tmp_path / "images", angles)
    arguments = ["predict", checkpoint, str(images), "--out", str(tmp_path / "pictures")]
    for one, degrees in zip(output(arguments), angles, strict=True):
        assert distance(one["degrees"], degrees) < 40
        with Image.open(one["picture"]) as drawn:
            assert drawn.width > 600
    run(arguments)
    said = capsys.readouterr().out
    ((_, prediction),) = Predictor.load(Path(checkpoint)).predict([images / "020.png"])
    assert isinstance(prediction, bars.Angle)
    assert f"{prediction.degrees:.0f}°" in said

    with pytest.raises(SystemExit):
        run(["inspect", checkpoint, "--data", "bars"])
    assert "inspect supports only classifiers" in capsys.readouterr().err


def test_user_task_scores_are_written_and_read(tmp_path: Path, capsys: Any) -> None:
    arguments = ["train", BARS, "--data", "bars", "--out", str(tmp_path), "--workers", "0", "--set", "epochs=1"]
    run([*arguments, "--rows", "mod", "control"])
    out = capsys.readouterr().out
    assert "error °" in out
    assert "over control" in out
    found = read_experiment(tmp_path / "accuracy.json")
    assert isinstance(found.rows[0].results[0].accuracy, Error)
    assert found.recipe.task == AngleOfBar()
    assert found.measure == "error"


def trained(folder: Path) -> None:
    how = recipe(BARS, ["epochs=6"])
    run_training(Run(recipe=how, row="mod", seed=0, data="bars"), folder, open_data("bars", how), save_every_s=0)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[2:]
from training.test_outside_task import trained
trained(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_run_reaches_the_same_weights(tmp_path: Path, capsys: Any) -> None:
    folder, tests = tmp_path / "run", str(Path(bars.__file__).parent)
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), tests], stderr=subprocess.DEVNULL)
    while not (folder / "state.safetensors").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "result.json").exists()
    run(["train", "--resume", str(folder), "--workers", "0"])
    assert "of 20 test images" in capsys.readouterr().out
    trained(tmp_path / "whole")
    files = [(some / "last.safetensors").read_bytes() for some in (folder, tmp_path / "whole")]
    assert files[0] == files[1]


def test_run_of_an_unknown_task_raises(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    how = recipe(BARS, ["epochs=1"])
    run_training(Run(recipe=how, row="mod", seed=0, data="bars"), tmp_path / "run", open_data("bars", how))
    monkeypatch.delitem(TASKS, "angle")
    for arguments in (["train", "--resume"], ["predict"], ["evaluate", "--data", "bars"]):
        capsys.readouterr()
        place = tmp_path / "run" if "--resume" in arguments else tmp_path / "run" / "best.safetensors"
        with pytest.raises(SystemExit) as stop:
            run([*arguments, str(place), *([str(place)] if arguments == ["predict"] else [])])
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert any(f"unknown task 'angle'; {hint}" in err for hint in ("the tasks are classification", "did you mean"))
        assert "(import the module of your own task first)" in err


class TestRefused:
    """Invalid classes raise a one-line error and are not registered."""

    @pytest.fixture(autouse=True)
    def _registered(self) -> Any:
        before = dict(TASKS)
        yield
        assert before == TASKS

    def refused(self, name: str, task: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            register_task(name)(task)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["angle", "detection"])
    def test_existing_name_is_refused(self, name: str) -> None:
        module = {"angle": "bars", "detection": r"cnnmod\.training\.tasks\.detection"}[name]
        self.refused(name, AngleOfBar, rf"^the task '{name}' is already registered by {module}$")

    @pytest.mark.parametrize("method", ["open_data", "prepare", "loss", "metric", "predict"])
    def test_missing_method_is_refused(self, method: str) -> None:
        methods = {name: getattr(AngleOfBar, name) for name in Task.__abstractmethods__ - {method}}
        half = dataclass(frozen=True, kw_only=True)(type("Half", (Task,), {"score": Error, **methods}))
        self.refused("half", half, rf"^the task 'half' \(Half\) has no {method}$")

    def test_class_without_methods_is_refused(self) -> None:
        empty = dataclass(frozen=True)(type("Empty", (Task,), {}))
        self.refused("empty", empty, r"^the task 'empty' \(Empty\) has no loss, metric, open_data, predict, prepare$")

    @pytest.mark.parametrize("score", [None, int, Error(1.0, 1, 0)])
    def test_missing_score_is_refused(self, score: Any) -> None:
        made = dataclass(frozen=True, kw_only=True)(type("Made", (AngleOfBar,), {"score": score}))
        self.refused("made", made, r"^the task 'made' \(Made\) has no score, which must be a subclass of Score$")

    def test_incomplete_score_is_refused(self) -> None:
        half = type("Half", (Score,), {"main": "x"})
        made = dataclass(frozen=True, kw_only=True)(type("Made", (AngleOfBar,), {"score": half}))
        self.refused("made", made, r"^the score of the task 'made' \(Half\) has no summary, title$")

    @pytest.mark.parametrize("task", [int, "angle", AngleOfBar(), type("Plain", (AngleOfBar,), {})])
    def test_other_classes_are_refused(self, task: Any) -> None:
        self.refused("plain", task, "^the task 'plain' must be a frozen dataclass and a subclass of Task, not ")

    def test_invalid_options_are_refused(self) -> None:
        def made(**fields: Any) -> Any:
            body = {"__annotations__": fields, "name": "x"} if "name" in fields else {"__annotations__": fields}
            return dataclass(frozen=True, kw_only=True)(type("Made", (AngleOfBar,), body))

        self.refused("made", made(sigma=float), r"^the task 'made' \(Made\): the option 'sigma' has no default$")
        self.refused(
            "made",
            made(name=str),
            r"^the task 'made' \(Made\): the option 'name' is reserved for the name of the task$",
        )

    @pytest.mark.parametrize("name", ["angel", "", "classifcation"])
    def test_unknown_task_raises(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"^unknown task '{name}'; (did you mean|the tasks are) .*$"):
            find_task(name)

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            (
                "no_such_module:small",
                "the recipe 'no_such_module:small' cannot be imported: No module named 'no_such_module'",
            ),
            ("bars:smal", "the recipe 'bars:smal' cannot be imported: module 'bars' has no attribute 'smal'"),
            ("bars:SIZE", "the recipe 'bars:SIZE' is a int, not a function that returns a Recipe"),
            ("math:gcd", "'math:gcd' returned a int, not a Recipe"),
        ],
    )
    def test_invalid_recipe_names_raise(self, name: str, error: str) -> None:
        with pytest.raises(ValueError, match=f"^{error}"):
            recipe(name)


class TestEntryPoints:
    """Packages can declare tasks as entry points."""

    @pytest.fixture
    def name_in_metadata(self, monkeypatch: Any) -> Any:
        def name(value: str) -> None:
            entry = EntryPoint("of_package", value, "cnnmod.tasks")
            monkeypatch.setattr(
                base, "entry_points", lambda group, name: [entry] if (group, name) == (entry.group, entry.name) else []
            )

        yield name
        TASKS.pop("of_package", None)

    def test_task_of_an_entry_point_is_found(self, name_in_metadata: Any) -> None:
        name_in_metadata("cnnmod.training.tasks:Classification")
        try:
            assert find_task("of_package") is Classification
            assert recipe("digits", ["task=of_package"]).to_dict()["task"]["name"] == "of_package"
        finally:
            Classification.name = "classification"

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("no_such_package:Task", "cannot be imported from no_such_package:Task: No module named 'no_such_package'"),
            ("bars:Nothing", "cannot be imported from bars:Nothing: module 'bars' has no attribute 'Nothing'"),
            ("bars:Bars", "must be a frozen dataclass and a subclass of Task, not <class 'bars.Bars'>"),
        ],
    )
    def test_invalid_entry_point_raises(self, value: str, error: str, name_in_metadata: Any) -> None:
        name_in_metadata(value)
        with pytest.raises(ValueError, match=rf"^the task 'of_package' {error}$"):
            find_task("of_package")
