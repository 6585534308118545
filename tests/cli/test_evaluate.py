import pytest

from cnnmod.cli import run
from pictures import classes
from small import SHORT_DIGITS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "the file nowhere/best.safetensors does not exist"),
        (["inspect"], "the file nowhere/best.safetensors does not exist"),
        (["inspect", "--out", "a.bmpx"], "suffix of a figure must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_print_one_line_and_exit_2(arguments, message, mistake):
    mistake([*arguments, "nowhere/best.safetensors", "--data", "digits"], message)


def test_training_evaluate_and_inspect_agree(tmp_path, capsys, output):
    checkpoint = [str(tmp_path / "run" / "best.safetensors"), "--data", "digits"]
    start = ["train", "digits", "--data", "digits", "--out", str(tmp_path / "run")]
    accuracy = output([*start, "--set", *SHORT_DIGITS])["accuracy"]
    assert accuracy["images"] == 450
    assert output(["evaluate", *checkpoint]) == accuracy
    assert not list(tmp_path.rglob(".*"))  # no lock files remain
    run(["inspect", *checkpoint, "--out", str(tmp_path / "a.png")])
    out = capsys.readouterr().out
    assert "layer2.1" in out
    assert "points worse without the MoD blocks" in out
    assert (tmp_path / "a.png").exists()


def test_other_classes_raise(tmp_path, capsys):
    for folder, second in (("data", "dog"), ("other", "eel")):
        for split in ("train", "val"):
            classes(tmp_path / folder, split, ["cat", second])
    changes = ["epochs=1", "batch_size=2", "image_size=8", "network_args.channels=[8,8,8,8]", "config.c=8"]
    out = str(tmp_path / "run")
    run(["train", "cifar10_fast", "--data", str(tmp_path / "data"), "--out", out, "--set", *changes])
    for command in ("evaluate", "inspect"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run([command, str(tmp_path / "run" / "best.safetensors"), "--data", str(tmp_path / "other")])
        assert stop.value.code == 2
        assert "the first difference is 'dog' and 'eel'" in " ".join(capsys.readouterr().err.split())
