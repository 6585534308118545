import json
import re
import sys

import pytest
from PIL import Image

from cnnmod import convert_, mod_blocks, plan, save
from cnnmod.cli import run
from cnnmod.measure.experiment import read_experiment
from cnnmod.method.choices import Choices, read_plan, write_plan
from cnnmod.method.skip import skipped_blocks
from cnnmod.networks import build, load
from cnnmod.training.folder import read_run
from small import shallow_resnet
from tune_folder import write_tune_folder

TUNE = [
    "tune",
    "small:shallow_resnet",
    "--plan-only",
    "--size",
    "8",
    "8",
    "--c",
    "4",
    "--rounds",
    "3",
    "--threads",
    "1",
]


def set_times(out):
    """Replace the measured times, which depend on the machine, by known ones: 10 % for a MoD block in the paper's form,
    5 % for a narrow one, 20 % for a skip."""
    values = json.loads((out / "times.json").read_text())
    saved = [{label: {"c=4": 0.1, "skip": 0.2}.get(label, 0.05) for label in group} for group in values["saved"]]
    assert all(len(group) == 3 for group in saved)
    values |= {"dense_ms": 10.0, "scale": 1.0, "saved": saved}
    (out / "times.json").write_text(json.dumps(values))
    return json.dumps(values)


@pytest.mark.parametrize("runtime", ["eager", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_tune_writes_a_plan_that_convert_takes(capsys, tmp_path, runtime):
    out = tmp_path / "tuned"
    run([*TUNE, "--runtime", runtime, "--budget", "1", "--out", str(out)])
    text, bars = capsys.readouterr()
    assert "The dense network meets the budget, so every block is kept." in text
    times = set_times(out)
    run([*TUNE, "--runtime", runtime, "--budget", "0.9", "--out", str(out)])
    assert "Plans for several budgets" in text
    assert re.search(rf"times in {runtime} .* \d:\d\d:\d\d", bars)  # the time left
    model = shallow_resnet()
    choices = read_plan(out / "plan.json")
    convert_(model, out / "plan.json")
    assert (len(mod_blocks(model)), len(skipped_blocks(model))) == (1, 0)
    assert [choice.c for choice in choices.values() if choice is not None] == [4]
    assert "0.900 of the dense time" in capsys.readouterr().out
    run([*TUNE, "--runtime", runtime, "--budget-ms", "1000", "--json", "--out", str(out)])
    values = json.loads(capsys.readouterr().out)
    assert set(values["chosen"]["labels"].values()) == {"keep"}
    assert values["front"][0]["budget"] > 1
    assert (out / "times.json").read_text() == times  # another budget needs no measurement
    with pytest.raises(SystemExit) as exit_:
        run([*TUNE, "--runtime", runtime, "--budget", "0.3", "--out", str(out)])
    assert exit_.value.code == 2
    message = "the budget 0.300 (3.00 ms) cannot be met; the smallest possible is 0.600 (6.00 ms)"
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run([*TUNE, "--runtime", runtime, "--budget", "0.95", "--c", "2", "--out", str(out)])
    assert "is of another tuning: block layer1.1 was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TUNE, "--budget-ms", "12"], "a budget in milliseconds needs a runtime, such as onnxruntime"),
        ([*TUNE, "--budget", "1.2"], "the budget must be more than 0 and at most 1, not 1.2"),
        (TUNE, "give one budget: a fraction of the dense network's time, such as 0.7, or milliseconds"),
        ([*TUNE, "--budget", "0.7", "--budget-ms", "3", "--runtime", "eager"], "give one budget: a fraction"),
        ([*TUNE, "--budget", "0.7", "--runtime", "tensorrt"], "unknown runtime 'tensorrt'; the runtimes are eager"),
        ([*TUNE, "--budget", "0.7", "--rounds", "0"], "rounds and threads must be ≥ 1, not 0 and 1"),
        ([*TUNE, "--budget", "0.7", "--c", "4096"], "c must be at most 32, the channels of the widest block, not 40"),
        (
            ["tune", "small:tiny_network", "--budget", "0.7"],
            "tune needs --data, or --plan-only for a plan without images",
        ),
        (
            ["tune", "timm/resnet18", "--data", "digits", "--budget", "0.7"],
            "timm/resnet18 has no trained weights; give",
        ),
        (["tune", "small:densenet", "--plan-only", "--budget", "0.7"], "DenseNet has n"),
        (["tune", "small:tiny_network_mod", "--plan-only", "--budget", "0.7"], "the model is already converted: "),
    ],
)
def test_wrong_input_is_one_line(capsys, tmp_path, arguments, message):
    assert refused(capsys, tmp_path / "tuned", arguments).startswith(f"cnnmod: {message}")


def refused(capsys, out, arguments):
    """Return the line that a command prints instead of a result. It writes nothing."""
    with pytest.raises(SystemExit) as exit_:
        run([*arguments, "--out", str(out)])
    assert exit_.value.code == 2
    text, error = capsys.readouterr()
    assert (text, error.count("\n")) == ("", 1)
    assert not out.exists()
    return error


def test_a_runtime_that_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    error = refused(capsys, tmp_path / "tuned", [*TUNE, "--budget", "0.7", "--runtime", "openvino"])
    assert "cnnmod: openvino needs openvino; in a checkout of cnnmod, run: pip install" in error


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The checkpoint of an untrained network for 10 classes."""
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    arguments = {"layers": (2, 2, 1, 1), "channels": (16, 32, 64, 128), "in_chans": 1, "num_classes": 10}
    save(shallow_resnet(), path, factory="cnnmod/resnet18_cifar", factory_args=arguments)
    return path


@pytest.mark.parametrize(
    ("classes", "each", "changes", "message"),
    [
        (1, 4, [], "has training images of only one class, 'class0'; it needs two or more"),
        (10, 2, [], "has too few training images (20 of 10 classes) for validation_fraction = 0.1"),
        (10, 2, ["validation_fraction=0.5"], "there are 10 training images, fewer than batch_size = 64"),
        (3, 4, ["validation_fraction=0.5"], "the data set has 3 classes, but the network returns (1, 10)"),
        (10, 2, ["validation_fraction=0", "batch_size=4"], "tune compares choices on validation images; add --set val"),
    ],
    ids=["one class", "few for validation", "fewer than a batch", "other classes", "no validation images"],
)
def test_wrong_images(capsys, tmp_path, dense, classes, each, changes, message):
    for name in (f"{split}/class{number}" for split in ("train", "val") for number in range(classes)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(each):
            Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    tune = ["tune", str(dense), "--data", str(tmp_path / "images"), "--recipe", "digits", "--budget", "0.9"]
    changed = ["--set", "validation_fraction=0.1", *changes]
    assert message in refused(capsys, tmp_path / "tuned", [*tune, "--runtime", "eager", *changed])


def test_a_plan_for_another_network(capsys, tmp_path):
    plan = write_tune_folder(tmp_path / "tuned") / "plan.json"
    train = ["train", "digits", "--data", "digits", "--plan", str(plan), "--set", "network_args.layers=[2,2,4,1]"]
    error = refused(capsys, tmp_path / "run", train)
    assert "the plan is of another network than ResNet: layer2.2 is 32 channels wide in the plan, not a block" in error


@pytest.mark.slow
def test_tune_on_images_and_training_with_its_plan(capsys, tmp_path, monkeypatch):
    """From a trained dense network to a tuned one."""
    dense, out, images = tmp_path / "dense", tmp_path / "tuned", ["--data", "digits"]
    run(["train", "digits", *images, "--out", str(dense), "--row", "baseline", "--set", "epochs=1", "warmup_epochs=0"])
    tune = ["tune", str(dense / "best.safetensors"), *images, "--recipe", "digits", "--out", str(out), "--passes", "1"]
    tune += ["--budget", "0.9", "--c", "4", "--rounds", "2", "--runtime", "eager", "--set", "train_images=256"]
    timing = ["--plan-only", "--budget", "1", "--size", "8", "--c", "4", "--rounds", "2", "--runtime", "eager"]
    run(["tune", str(dense / "best.safetensors"), *timing, "--out", str(out)])
    set_times(out)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(tune)
    assert "tune compares choices on validation images; add --set validation_f" in capsys.readouterr().err
    run([*tune, "validation_fraction=0.1"])
    text = capsys.readouterr().out
    assert "over 30 random combinations" in text
    assert "front.png" in text
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "matplotlib.figure", None)
        hidden.delitem(sys.modules, "cnnmod.report.front", raising=False)
        run([*tune, "validation_fraction=0.1"])
    assert "front.png is not drawn, because matplotlib is not installed." in capsys.readouterr().out
    assert not (out / "front.png").exists()
    loaded = load(out / "tuned.safetensors")
    assert mod_blocks(loaded) or skipped_blocks(loaded)
    changes = ["--set", "network=resnet18_cifar", "epochs=1", "warmup_epochs=0"]
    run(["train", "digits", *images, "--out", str(tmp_path / "run"), "--plan", str(out), *changes])
    run_recipe = read_run(tmp_path / "run").recipe
    assert run_recipe.networks.plan == read_plan(out / "plan.json")
    assert run_recipe.networks.mod_weights == str(out / "tuned.safetensors")
    trained = load(tmp_path / "run" / "best.safetensors")
    assert list(mod_blocks(trained)) == list(mod_blocks(loaded))
    assert skipped_blocks(trained) == skipped_blocks(loaded)
    with pytest.raises(SystemExit):
        run([*tune, "validation_fraction=0.1", "batch_size=400"])
    assert "training images, fewer than batch_size = 400" in capsys.readouterr().err


@pytest.fixture
def only_skips(tmp_path):
    model = build("resnet18_cifar", channels=(16, 32, 64, 128), layers=(2, 4, 4, 1))
    channels = {block.name: block.channels for block in plan(model).blocks if block.position}
    write_plan(Choices(dict.fromkeys(channels, "skip"), channels), tmp_path / "plan.json")
    return ["--plan", str(tmp_path / "plan.json"), "--set", "network=resnet18_cifar"]


@pytest.mark.parametrize("option", ["--row", "--rows"])
def test_control_of_a_plan_that_only_skips_is_one_line(only_skips, option, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        run(["train", "digits", "--data", "digits", "--out", str(tmp_path / "run"), option, "control", *only_skips])
    assert exit_.value.code == 2
    assert "plan.json has no MoD block, so its network is its own control; train the row mod" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_control_of_a_plan_that_only_skips_is_not_trained(only_skips, caplog, tmp_path):
    short = ["epochs=1", "warmup_epochs=0", "train_images=256"]
    out = ["--out", str(tmp_path / "runs"), "--rows", "mod", "control"]
    run(["train", "digits", "--data", "digits", *out, *only_skips, *short])
    assert "which is not trained again" in caplog.text
    assert [row.row for row in read_experiment(tmp_path / "runs" / "accuracy.json").rows] == ["mod"]
