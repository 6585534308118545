"""Runs in a run folder: killed, resumed and refused runs."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cnnmod
from cnnmod.cli import run as cli
from cnnmod.networks import load
from cnnmod.training.data import open_data
from cnnmod.training.folder import Run, RunFolder, read_run
from cnnmod.training.recipes import recipe
from cnnmod.training.rows import build_row
from cnnmod.training.run import run_training
from small import SHORT_DIGITS

SHORT = ["epochs=3", "warmup_epochs=0", "train_images=256", "batch_size=32", "ema_decay=0.9", "validation_fraction=0.2"]
SHORT += ["network_args.layers=[2,2,1,1]"]
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cnnmod.training.data import open_data
from cnnmod.training.folder import read_run
from cnnmod.training.run import run_training
folder = Path(sys.argv[1])
run = read_run(folder)
print("ready", flush=True)
run_training(run, folder, open_data(run.data, run.recipe), save_every_s=0)
"""


def a_run(*changes, row="mod", seed=0):
    return Run(recipe=recipe("digits", [*SHORT, *changes]), row=row, seed=seed, data="digits")


def trained(run, folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_training(run, folder, open_data(run.data, run.recipe), save_every_s=0)
    finally:
        torch.set_num_threads(threads)


def begin(run, folder):
    """Create a run folder as it is before the first step."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"run": run.to_dict()}))


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, trained(a_run(), folder)


def check_same(folder, whole):
    for name in ("last", "best", "state"):
        ours, theirs = (load_file(some / f"{name}.safetensors") for some in (folder, whole))
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    results = [json.loads((some / "result.json").read_text()) for some in (folder, whole)]
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert steps(folder) == steps(whole)


def kill_at_random(folder, seconds):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_run_killed_at_random_times_reaches_the_same_weights(kills, whole, tmp_path):
    draws = random.Random(0)
    folder = tmp_path / "killed"
    begin(a_run(), folder)
    states = 0
    for _ in range(kills):
        kill_at_random(folder, draws.uniform(0.2, 2.5))
        if (folder / "state.safetensors").exists():
            load_file(folder / "state.safetensors")  # raises if the file is incomplete
            states += 1
        if (folder / "result.json").exists():
            check_same(folder, whole[0])
            begin(a_run(), folder := tmp_path / f"killed after {states}")
    assert states
    trained(read_run(folder), folder)
    check_same(folder, whole[0])


TEAR = """
import os, signal, sys
from pathlib import Path
write, count = Path.write_bytes, 0
def torn(self, content):
    global count
    count += "state.safetensors" in self.name
    if count == 3:
        write(self, content[: len(content) // 2] if sys.argv[2] == "half" else content)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)
Path.write_bytes = torn
"""


@pytest.mark.slow
@pytest.mark.parametrize("much", ["half", "all"])
def test_run_killed_while_writing_the_state_reaches_the_same_weights(much, whole, tmp_path):
    """The file is half written, or written but not renamed. The run resumes from the previous state."""
    folder = tmp_path / "torn"
    begin(a_run(), folder)
    killed = subprocess.run([sys.executable, "-c", TEAR + SCRIPT, str(folder), much], stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert list(folder.glob(".state.safetensors.*.partial"))
    load_file(folder / "state.safetensors")
    trained(read_run(folder), folder)
    check_same(folder, whole[0])
    assert not list(folder.glob(".*"))


def test_run_folder_has_all_files(whole):
    folder, result = whole
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "run.json",
        "metrics.jsonl",
        "state.safetensors",
        "last.safetensors",
        "best.safetensors",
        "result.json",
    }
    made = json.loads((folder / "run.json").read_text())
    assert made["provenance"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert read_run(folder) == a_run()
    assert result.accuracy.images == 450
    model = load(folder / "best.safetensors").eval()
    assert len(cnnmod.mod_blocks(model)) == 2
    data = open_data("digits", a_run().recipe)
    (batch,) = data.test.batches([torch.arange(450)])
    with torch.inference_mode():
        hits = (model(batch.images).argmax(1) == batch.labels).float().mean().item()
    assert 100 * hits == pytest.approx(result.accuracy.top1_pct, abs=1e-3)


def test_finished_run_is_not_repeated(whole):
    folder, result = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert trained(a_run(), folder) == result
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("row", ["baseline", "control"])
def test_baseline_and_control_are_trained(row, tmp_path):
    run = a_run("epochs=1", "train_images=64", row=row)
    result = trained(run, tmp_path / row)
    model = load(tmp_path / row / "best.safetensors")
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert not cnnmod.mod_blocks(model)
    mod = build_row(run.recipe, "mod", 10)
    assert (result.parameters < sum(parameter.numel() for parameter in mod.parameters())) == (row == "control")


class TestRefused:
    def test_different_recipe_raises(self, whole):
        with pytest.raises(
            ValueError, match=r"contains another run: its recipe\.networks\.config\.order is 'score', not 'index'"
        ):
            trained(a_run("config.order=index"), whole[0])
        with pytest.raises(ValueError, match="its seed is 0, not 1"):
            trained(a_run(seed=1), whole[0])

    def test_different_classes_raise(self, tmp_path):
        """The order of the classes must be the same too, since it sets the labels."""
        run = a_run("epochs=1", "train_images=64")
        data = open_data("digits", run.recipe)
        assert data.classes is not None
        run_training(run, tmp_path / "run", data)
        for done in (True, False):
            if not done:
                (tmp_path / "run" / "result.json").unlink()
            before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
            for classes, named in ((data.classes[::-1], "'0' and '9'"), (data.classes[:-1], "'9' and None")):
                with pytest.raises(
                    ValueError,
                    match=rf"^the run in {tmp_path}/run has 10 classes, the data set has {len(classes)}; the first "
                    rf"difference is {named}$",
                ):
                    run_training(run, tmp_path / "run", replace(data, classes=classes))
            assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before
        run_training(run, tmp_path / "run", data)

    def test_moved_data_is_accepted(self, whole):
        moved = replace(a_run(), data="elsewhere/digits")
        opened = open_data("digits", moved.recipe)
        assert run_training(moved, whole[0], opened) == whole[1]
        with pytest.raises(ValueError, match="contains another run: its data is 'digits', not 'elsewhere/letters'"):
            run_training(replace(moved, data="elsewhere/letters"), whole[0], opened)

    def test_folder_with_other_files_raises(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ValueError, match=r"is neither a run folder nor empty: it contains notes\.txt"):
            trained(a_run(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_partial_files_of_a_killed_run_are_accepted(self, tmp_path):
        (tmp_path / ".run.json.1.partial").touch()
        trained(a_run("epochs=1", "train_images=64"), tmp_path)
        assert not list(tmp_path.glob(".*"))


class TestFailedStarts:
    """A failed start leaves no files, so that the corrected command can use the same folder."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ("batch_size=1000", "256 training images, fewer than batch_size"),
            ("accumulate=5", "is not a multiple of 1 processes"),
            ("teacher=nothing", "unknown network 'nothing'"),
            ("network=nothing", "unknown network 'timm/nothing'"),
            ("optimizer=nothing", "nothing"),
        ],
    )
    @pytest.mark.parametrize("there", [True, False])
    def test_failure_before_the_first_step_leaves_no_files(self, there, change, error, tmp_path):
        folder = tmp_path / "runs" / "one"
        if there:
            folder.mkdir(parents=True)
        with pytest.raises(ValueError, match=error):
            trained(a_run("validation_fraction=0", *change.split()), folder)
        assert [*tmp_path.rglob("*")] == ([folder.parent, folder] if there else [])

    def test_failure_in_the_first_step_leaves_no_files(self, tmp_path):
        run = a_run("epochs=1", "validation_fraction=0")
        data = open_data("digits", run.recipe)
        data.train.labels[1:] = 99
        with pytest.raises(IndexError, match="out of bounds"):
            run_training(run, tmp_path / "run", data)
        assert not list(tmp_path.iterdir())


DIVERGES = ("learning_rate=1e6", "ema_decay=0.9")


@pytest.mark.parametrize("save_every_s", [0, 60])
def test_non_finite_loss_does_not_replace_the_last_state(save_every_s, tmp_path):
    run = a_run(*DIVERGES)
    data = open_data(run.data, run.recipe)
    errors = []
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"at step \d.*; try a lower learning rate") as error:
            run_training(run, tmp_path / "run", data, save_every_s=save_every_s)
        errors.append(str(error.value))
        written = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.safetensors")}
        assert set(written) == ({"state.safetensors"} if save_every_s == 0 else set())
        for name in written:
            assert all(values.isfinite().all() for values in load_file(tmp_path / "run" / name).values())
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", ["best", "last"])
def test_non_finite_weights_are_not_written(name, tmp_path):
    run = a_run()
    record = RunFolder(run, tmp_path, 10, None, save_every_s=0)
    model = build_row(run.recipe, run.row, 10)
    save = {"best": record.save_best, "last": record.save_last}[name]
    save(model)
    before = (tmp_path / f"{name}.safetensors").read_bytes()
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(
        FloatingPointError, match=rf"has values that are not finite in the network to save as {name}\.safetensors"
    ):
        save(model)
    assert (tmp_path / f"{name}.safetensors").read_bytes() == before


GO_ON = """
import sys
from cnnmod.cli import run
run(sys.argv[1:])
"""


@pytest.fixture
def going_on(tmp_path):
    """The process and the arguments of a running `cnnmod train`."""
    arguments = ["train", "digits", "--data", "digits", "--out", str(tmp_path / "run"), "--set"]
    arguments += [*SHORT_DIGITS, "epochs=1000"]
    process = subprocess.Popen([sys.executable, "-c", GO_ON, *arguments], stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    yield process, arguments
    process.kill()
    process.wait()


@pytest.mark.slow
def test_second_run_in_the_folder_raises(going_on, tmp_path, capsys):
    process, arguments = going_on
    resume = ["train", "--resume", str(tmp_path / "run")]
    for second in (arguments, resume, [*arguments, "--rows", "mod", "control"]):
        with pytest.raises(SystemExit) as stop:
            cli(second)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(f"cnnmod: {tmp_path / 'run'} is in use by process {process.pid} on ")
    process.send_signal(signal.SIGKILL)
    process.wait()
    logged = steps(tmp_path / "run")
    assert logged == sorted(set(logged))
    (tmp_path / "run" / "run.json").write_text((tmp_path / "run" / "run.json").read_text().replace("1000", "1"))
    (tmp_path / "run" / "state.safetensors").unlink(missing_ok=True)
    cli(resume)
    assert "test images" in capsys.readouterr().out
    assert not list((tmp_path / "run").glob(".*"))


def test_teacher_can_be_a_checkpoint(whole, tmp_path):
    teacher = Path(whole[0]) / "best.safetensors"
    result = trained(
        a_run("epochs=1", "train_images=64", f"teacher={teacher}", "distill_weight=1"), tmp_path / "student"
    )
    assert result.accuracy.images == 450
