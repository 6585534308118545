import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock
from torch import nn
from tuning_network import CONFIGS, EXAMPLE, batches, network

from cnnmod import convert_, load_, mod_blocks, tune
from cnnmod.method.skip import skipped_blocks
from cnnmod.tuning.candidates import Candidates, train_candidates_
from cnnmod.tuning.space import find_space

IMAGES = {"train": batches(3, 0), "held_out": batches(2, 1)}


def tuned(out, **arguments):
    torch.manual_seed(0)
    arguments = {"budget": 0.9, "runtime": "eager", "configs": CONFIGS, "rounds": 3} | arguments
    return tune(network(), EXAMPLE, out, **arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which all stages are finished."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    steps = []
    tuned(folder, **IMAGES, budget=1.0, progress=lambda *step: steps.append(step))
    assert list(dict.fromkeys(step[0] for step in steps)) == [
        "times in eager",
        "training all candidates",
        "accuracy of each choice",
        "accuracy of the plans",
    ]
    values = json.loads((folder / "times.json").read_text())
    values |= {"scale": 1.0, "saved": [{"c=2": 0.1, "skip": 0.2}]}  # measured times depend on the machine
    (folder / "times.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


def test_candidates_learn_what_their_dense_blocks_compute():
    model, images = network(), batches(4, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    candidates = Candidates(model, find_space(model, CONFIGS, EXAMPLE), EXAMPLE)
    inputs = {}
    hook = model[1][1].register_forward_hook(lambda _, args, output: inputs.update(x=args[0], y=output))
    with torch.no_grad():
        model(images[0][0])
    hook.remove()

    def error():
        with torch.no_grad():
            return (candidates.layers["1.1", "c=2"].eval()(inputs["x"]) - inputs["y"]).square().mean()

    at_start = error()
    train_candidates_(model, candidates, images, passes=20)
    assert error() < at_start
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_training_is_repeatable_with_dropout():
    model = nn.Sequential(*(BasicBlock(8, 8, drop_path=nn.Dropout(0.5)) for _ in range(3))).eval()
    space, images = find_space(model, CONFIGS, torch.rand(1, 8, 8, 8)), [(torch.rand(4, 8, 8, 8), None)]
    states = []
    for seed in (1, 2):
        candidates = Candidates(model, space, torch.rand(1, 8, 8, 8))
        torch.manual_seed(seed)
        train_candidates_(model, candidates, images, passes=2)
        states.append([value for layer in candidates.layers.values() for value in layer.state_dict().values()])
    assert all(map(torch.equal, *states))


def test_tune_with_images_writes_the_network_of_the_plan(folder):
    made = tuned(folder, **IMAGES)
    assert made.chosen.time <= 0.9
    assert made.chosen.cross_entropy is not None
    assert made.losses is not None
    assert made.rank_correlation is not None
    assert -1 <= made.rank_correlation <= 1
    assert f"over {len(made.losses.checks)} random combinations: {made.rank_correlation:.2f}" in str(made)
    model = load_(network(), folder / "tuned.safetensors", example=EXAMPLE)
    planned = convert_(network(), folder / "plan.json", example=EXAMPLE)
    assert list(mod_blocks(model)) == list(mod_blocks(planned))
    assert skipped_blocks(model) == skipped_blocks(planned)
    front = json.loads((folder / "front.json").read_text())["plans"]
    assert [plan["budget"] for plan in front] == sorted((plan["budget"] for plan in front), reverse=True)


def test_a_killed_tune_continues_to_the_same_plan_and_weights(folder):
    (folder / "losses.json").unlink()  # it has the plans for the times that the fixture has changed
    whole = tuned(folder, **IMAGES)
    weights = load_file(folder / "tuned.safetensors")
    losses = (folder / "losses.json").read_text()
    for stage, description, at in (
        ("losses", "accuracy of the plans", 1),
        ("losses", "accuracy of each choice", 3),
        ("candidates", "training all candidates", 3),
    ):

        def kill(now, done, total, description=description, at=at):
            if now == description and done == at:
                raise InterruptedError

        (folder / "losses.json").unlink()
        if stage == "candidates":
            (folder / "candidates.safetensors").unlink()
        with pytest.raises(InterruptedError):
            tuned(folder, **IMAGES, progress=kill)
        again = tuned(folder, **IMAGES)
        assert again == whole
        assert (folder / "losses.json").read_text() == losses
        resumed = load_file(folder / "tuned.safetensors")
        assert all(torch.equal(value, weights[name]) for name, value in resumed.items())


def test_candidates_of_other_weights_are_not_used(folder):
    model = network()
    nn.init.zeros_(model[4].bias)
    with pytest.raises(ValueError, match="was trained for other weights of the network; use a new folder"):
        tune(model, EXAMPLE, folder, budget=0.9, runtime="eager", configs=CONFIGS, rounds=3, **IMAGES)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"neither a folder of tune nor empty: it contains photo\.jpg; use another"):
        tuned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_it_says_where_skipping_is_better_everywhere(folder):
    values = json.loads((folder / "losses.json").read_text())
    for choices in values["alone"].values():
        choices["skip"]["cross_entropy"] = values["dense"]["cross_entropy"] + 0.001
        choices["c=2"]["cross_entropy"] = values["dense"]["cross_entropy"] + 1
    (folder / "losses.json").write_text(json.dumps(values))
    made = tuned(folder, **IMAGES)
    assert "MoD is not for this network" in str(made)


def test_scipy_is_needed_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match="tune needs scipy; in a checkout of cnnmod, run: pip install"):
        tuned(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": batches(1, 0)}, "train and held_out must be given together"),
        ({"train": [], "held_out": batches(1, 0)}, "train and held_out must have at least one batch each"),
        ({"passes": 0}, "passes must be ≥ 1, not 0"),
        ({"rounds": 0}, "rounds and threads must be ≥ 1, not 0 and None"),
    ],
)
def test_wrong_arguments_raise_and_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        tuned(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_version_is_refused(folder):
    settings = folder / "settings.json"
    settings.write_text(settings.read_text().replace("cnnmod tune 2", "cnnmod tune 1"))
    with pytest.raises(ValueError, match=r"has the schema 'cnnmod tune 1 settings'; .*; run tune in a new folder"):
        tuned(folder, **IMAGES)


def test_the_default_choices_have_the_paper_s_form_and_narrow_blocks(tmp_path):
    tuned = tune(network(), EXAMPLE, tmp_path / "out", budget=1.0, runtime="eager", rounds=1)
    assert list(tuned.space.blocks[0].choices) == ["keep", "c=8", "narrow c=2", "narrow c=4", "skip"]


def test_candidates_that_were_trained_in_another_way_are_refused(tmp_path):
    """Their losses would be those of other MoD blocks."""
    settings = {"budget": 0.9, "runtime": "eager", "configs": CONFIGS, "rounds": 3, **IMAGES}
    tune(network(), EXAMPLE, tmp_path / "out", passes=1, **settings)
    with pytest.raises(ValueError, match=r"candidates\.safetensors was trained with .*'passes': 1.*; use a new folder"):
        tune(network(), EXAMPLE, tmp_path / "out", passes=2, **settings)
