import json

import pytest

from cnnmod.cli import run
from pictures import classes
from small import SHORT_DIGITS

START = ["train", "digits", "--data", "digits", "--out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit", "--data", "digits", "--out", "x"], "unknown recipe 'digit'; did you mean digits"),
        (["train", "digits"], "train needs a recipe, --data and --out"),
        (["train", "digits", "--data", "digits", "--out", "x", "--set", "epoch=3"], "unknown recipe field 'epoch'"),
        (["train", "digits", "--data", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["train", "digits", "--data", "digits", "--out", "x", "--workers", "-1"], "--workers must be ≥ 0, not -1"),
        (
            [*START, "x", "--set", "augmentation=resized_crop", "auto_augment=a"],
            "auto_augment 'a' is not an auto-augment policy of timm",
        ),
        ([*START, "file"], "file"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder: it has no run.json"),
        (["train", "digits", "--resume", "nowhere"], "--resume reads everything from the run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake):
    mistake(arguments, message)


@pytest.mark.parametrize("rows", [[], ["--rows", "mod"]])
def test_failed_start_leaves_no_files(rows, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run([*START, f"{tmp_path}/a/b", "--set", "batch_size=9999", *rows])
    assert stop.value.code == 2
    assert "1347 training images, fewer than batch_size = 9999" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_train_compare_and_plot_work_together(tmp_path, capsys):
    folder, times = tmp_path / "rows", str(tmp_path / "times.json")
    rows = ["--rows", "baseline", "mod", "control"]
    run([*START, str(folder), *rows, "--set", *SHORT_DIGITS])
    assert "over control" in capsys.readouterr().out
    accuracy = json.loads((folder / "mod-seed0" / "result.json").read_text())["accuracy"]
    run(["train", "--resume", str(folder / "mod-seed0")])
    assert f"top-1 {accuracy['top1_pct']:.2f} %" in " ".join(capsys.readouterr().out.split())
    run(["compare", "--accuracy", str(folder / "accuracy.json"), "--rounds", "1", "--out", times])
    out = capsys.readouterr().out
    assert "score %" in out
    assert "one seed." in " ".join(out.split())
    run(["plot", times, "--out", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_broken_image_prints_one_line_with_worker_processes(tmp_path, capsys):
    for split in ("train", "val"):
        classes(tmp_path / "data", split, ["cat", "dog"])
    (tmp_path / "data" / "train" / "dog" / "1.png").write_bytes(b"no image")
    changes = ["epochs=1", "batch_size=2", "image_size=32", "config.c=8"]
    for workers in ("0", "2"):
        arguments = ["train", "imagenet", "--data", str(tmp_path / "data"), "--out", str(tmp_path / workers)]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run([*arguments, "--workers", workers, "--row", "baseline", "--set", *changes])
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith(f"cnnmod: {tmp_path}/data/train/dog/1.png is broken: it is not an image")
        assert err.count("\n") == 1
        assert len(err) < 300


def test_list_shows_the_recipes(capsys):
    run(["train", "--list"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits", "cifar10_fast", "imagenet_short"))
