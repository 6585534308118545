import json

import pytest

from cnnmod.cli import run

START = ["train", "digits", "--data", "digits", "--out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit", "--data", "digits", "--out", "x"], "unknown recipe 'digit'; did you mean digits"),
        (["train", "digits"], "train takes a recipe, --data and --out"),
        (["train", "digits", "--data", "digits", "--out", "x", "--set", "epoch=3"], "unknown recipe field 'epoch'"),
        (["train", "digits", "--data", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["train", "digits", "--data", "digits", "--out", "x", "--workers", "-1"], "--workers must be ≥ 0, not -1"),
        (
            [*START, "x", "--set", "augmentation=resized_crop", "auto_augment=a"],
            "auto_augment 'a' is no policy of timm",
        ),
        ([*START, "file"], "file"),
        (["train", "--resume", "nowhere"], "nowhere holds no run: there is no run.json in it"),
        (["train", "digits", "--resume", "nowhere"], "--resume takes everything from the run's folder"),
        (["evaluate", "nowhere/best.safetensors", "--data", "digits"], "there is no file nowhere/best.safetensors"),
        (["inspect", "nowhere/best.safetensors", "--data", "digits"], "there is no file nowhere/best.safetensors"),
        (["inspect", "a.safetensors", "--data", "digits", "--out", "a.bmpx"], "file name ends in one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_exit_2(arguments, message, mistake):
    mistake(arguments, message)


@pytest.mark.parametrize("rows", [[], ["--rows", "mod"]])
def test_a_start_that_fails_leaves_nothing(rows, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run([*START, f"{tmp_path}/a/b", "--set", "batch_size=9999", *rows])
    assert stop.value.code == 2
    assert "1347 images to train on, fewer than batch_size = 9999" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_train_evaluate_and_rows(tmp_path, capsys):
    short = ["--data", "digits", "--set", "epochs=1", "warmup_epochs=0", "train_images=256"]
    run(["train", "digits", *short, "--out", str(tmp_path / "one"), "--json"])
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy["images"] == 450
    run(["evaluate", str(tmp_path / "one" / "best.safetensors"), "--data", "digits", "--json"])
    assert json.loads(capsys.readouterr().out) == accuracy
    assert not list(tmp_path.rglob(".*"))  # locks
    run(["inspect", str(tmp_path / "one" / "best.safetensors"), "--data", "digits", "--out", str(tmp_path / "a.png")])
    assert "layer2.3" in capsys.readouterr().out
    assert (tmp_path / "a.png").exists()
    run(["train", "--resume", str(tmp_path / "one")])
    assert f"top-1 {accuracy['top1_pct']:.2f} %" in " ".join(capsys.readouterr().out.split())
    run(["train", "digits", *short, "--out", str(tmp_path / "three"), "--rows", "baseline", "mod", "control"])
    assert "over control" in capsys.readouterr().out
    accuracy_file = tmp_path / "three" / "accuracy.json"
    assert accuracy_file.exists()
    run(["compare", "--accuracy", str(accuracy_file), "--rounds", "1", "--out", str(tmp_path / "times.json")])
    out = capsys.readouterr().out
    assert "score %" in out
    assert "mean of 1 seeds" in " ".join(out.split())
    run(["plot", str(tmp_path / "times.json"), "--out", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_list_of_recipes(capsys):
    run(["train", "--list"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits", "cifar10_fast", "imagenet_short"))
