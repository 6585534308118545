import json
import warnings

import pytest

from cnnmod.training import folder as folder_module
from cnnmod.training.data import open_data
from cnnmod.training.folder import Run, read_run
from cnnmod.training.recipes import recipe
from cnnmod.training.run import run_training


def a_run(folder):
    short = ["epochs=2", "warmup_epochs=0", "train_images=128", "validation_fraction=0.2"]
    run = Run(recipe=recipe("digits", short), row="control", seed=0, data="digits")
    run_training(run, folder, open_data("digits", run.recipe))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_the_same_values_as_the_metrics(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own
        from tensorboard.backend.event_processing import event_accumulator as reader
    lines = a_run(tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "validation_top1_pct"):
        logged = [(line["step"], line[name]) for line in lines if name in line]
        assert logged
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)] == logged


def test_run_works_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "SummaryWriter", None)
    assert a_run(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


def test_folder_without_run_json_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no run\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"run": {"seed": 1}}'])
def test_invalid_run_json_raises(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_run(tmp_path)
