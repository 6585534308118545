import dataclasses
import json

import pytest
import tuned
from choices_table import choices_table
from tuned_table import tuned_table

from pictures import classes

EXPERIMENT = {
    "question": "?",
    "stop_rule": "all runs",
    "network_args": {"channels": [8, 16], "layers": [1, 5]},
    "dense": ["epochs=1", "batch_size=50", "validation_fraction=0.5", "image_size=16", "optimizer=sgd"],
    "finetune": ["epochs=1", "batch_size=50", "validation_fraction=0.5", "image_size=16", "augmentation=crop_flip"],
    "c": [4],
    "narrow": [2],
    "runtime": "eager",
    "batch": 2,
    "threads": 1,
    "rounds": 5,
    "budgets": [0.9],
    "seeds": [0],
    "arms": ["tune", "skip", "control"],
}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the script changes the folder
    for split, count in (("train", 2), ("test", 1)):
        classes(tmp_path / "data", split, [f"class{number:02}" for number in range(tuned.CLASSES)], count=count)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(EXPERIMENT))
    return path


@pytest.mark.slow
def test_experiment_with_narrow_blocks_has_all_arms_and_a_table(experiment, tmp_path):
    """The plans are made of narrow blocks too, and a finished experiment trains nothing again."""
    folders = {"data": tmp_path / "data", "runs": tmp_path / "runs", "out": tmp_path}
    tuned.main(experiment, **folders)
    result = json.loads((tmp_path / "tuned-tiny.json").read_text())
    assert set(result["saved"][0]) == {"c=4", "narrow c=2", "skip"}
    assert list(result["arms"]) == ["dense", "control", "tune-0.9", "skip-0.9"]
    assert all(arm["results"][0]["accuracy"]["images"] == tuned.CLASSES for arm in result["arms"].values())
    assert "skip" in result["arms"]["skip-0.9"]["labels"].values()
    assert "| tune-0.9 |" in tuned_table(result)
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").rglob("result.json"))]
    tuned.main(experiment, **folders)
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").rglob("result.json"))]


def test_tune_is_not_trained_twice_if_its_plan_only_skips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    skip, mixed = {"1": "skip", "2": "keep"}, {"1": "skip", "2": "c=4"}
    plans = {"tune-0.9": skip, "skip-0.9": skip, "tune-0.7": mixed, "skip-0.7": skip}
    tuned.PLANS.write_text(json.dumps({name: {"labels": labels} for name, labels in plans.items()}))
    planned = tuned.parse(tuned.Experiment, EXPERIMENT | {"budgets": [0.9, 0.7]}, "tiny")
    assert tuned.Stages(planned, tmp_path).same() == {"tune-0.9": "skip-0.9"}
    assert tuned.Stages(dataclasses.replace(planned, arms=["tune"]), tmp_path).same() == {}


def test_an_experiment_without_tune_is_refused(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(EXPERIMENT | {"arms": ["skip"]}))
    with pytest.raises(ValueError, match="arms must have tune"):
        tuned.main(path, runs=tmp_path)


def test_table_of_choices():
    choices = {label: {"saved": 0.03, "cross_entropy": 0.1} for label in ("narrow c=4", "skip")}
    machine = {"processor": "CPU", "versions": {"torch": "2"}}
    result = {"name": "tiny", "choices": choices, "times_provenance": machine, "experiment": EXPERIMENT}
    errors = {"0.01": {"narrow c=4": 0.3}, "0.002": {"narrow c=4": 0.4}}
    rates = {"experiment": "tiny", "errors": errors, "images": 10, "batches": 5}
    rows = choices_table(result, rates).splitlines()
    assert rows[2:4] == ["| narrow c=4 | 3.0 | +0.100 | 0.40 | 0.30 |", "| skip | 3.0 | +0.100 | 1 | 1 |"]
    with pytest.raises(ValueError, match="two experiments, tiny and other"):
        choices_table(result, rates | {"experiment": "other"})
