import json

import pays
import pytest
from safetensors.torch import load_file

from pictures import classes

ARM = {"row": "baseline", "runs": 2, "twin": None, "changes": []}
CHANGES = ["epochs=1", "batch_size=6", "image_size=16", "optimizer=sgd", "network_args.channels=[16,16,16,16]"]


def plan(tmp_path, arms, changes=CHANGES):
    path = tmp_path / "tiny.json"
    texts = {"question": "?", "stop_rule": "all runs", "data": "few", "recipe": "cifar10_fast"}
    path.write_text(json.dumps({**texts, "changes": changes, "arms": arms}))
    return path


def test_arm_starts_from_the_run_of_another_arm_with_the_same_seed(tmp_path):
    arms = {
        "after": ARM | {"starts_from": "dense"},
        "control": ARM | {"row": "control", "runs": 3},
        "dense": ARM,
    }
    found = pays.read_plan(plan(tmp_path, arms))
    assert found.runs() == [
        *(("control", 0), ("dense", 0), ("after", 0), ("control", 1)),
        *(("dense", 1), ("after", 1), ("control", 2)),
    ]
    assert found.recipe_of("after", 0).networks.network_args["trained"] == "dense-seed0/last.safetensors"
    assert "trained" not in found.recipe_of("after").networks.network_args
    assert "trained" not in found.recipe_of("dense", 0).networks.network_args


def test_arm_cannot_start_from_an_unknown_arm(tmp_path):
    arms = {"control": ARM | {"row": "control", "starts_from": "dense"}}
    with pytest.raises(ValueError, match=r"control starts from 'dense'; the arms are control"):
        pays.read_plan(plan(tmp_path, arms))
    arms = {"control": ARM | {"row": "control"}, "after": ARM | {"starts_from": "control", "runs": 3}}
    with pytest.raises(ValueError, match="after has 3 runs, more than control, from which they start"):
        pays.read_plan(plan(tmp_path, arms))


@pytest.mark.slow
def test_checkpoint_of_the_other_arm_is_read(tmp_path, monkeypatch):
    """The factory gets the path of a trained network, and the result has both arms."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "again.py").write_text(
        "import cnnmod, cnnmod.networks\n"
        "def again(num_classes, channels, trained=None):\n"
        "    model = cnnmod.networks.build('resnet18_cifar', num_classes=num_classes, channels=channels)\n"
        "    return model if trained is None else cnnmod.load_(model, trained)\n"
    )
    for split in ("train", "test"):
        classes(tmp_path / "data" / "few", split, list("abcdef"), count=2)
    arms = {
        "control": ARM | {"row": "control", "runs": 1},
        "dense": ARM | {"runs": 1},
        # A learning rate of almost 0 keeps the weights.
        "again": ARM | {"runs": 1, "starts_from": "dense", "changes": ["baseline=again:again", "learning_rate=1e-9"]},
    }
    folders = {"data": tmp_path / "data", "runs": tmp_path / "runs", "out": tmp_path, "processes": 1}
    pays.main(plan(tmp_path, arms), minutes=5, **folders)
    result = json.loads((tmp_path / "pays-tiny.json").read_text())
    runs = {arm["arm"]: arm["results"][0] for arm in result["arms"]}
    assert runs["again"]["parameters"] == runs["dense"]["parameters"]
    weights = {
        arm: cnnmod_weights(tmp_path / "runs" / "tiny" / f"{arm}-seed0" / "last.safetensors")
        for arm in ("dense", "again")
    }
    assert abs(weights["again"] - weights["dense"]).max() < 1e-6


def cnnmod_weights(path):

    return load_file(path)["conv1.weight"]
