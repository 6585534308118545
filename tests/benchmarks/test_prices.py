import json

import prices
import pytest
from returns_table import returns_table

ARMS = {
    "dense": {"row": "baseline", "runs": 1, "twin": None, "changes": []},
    "control": {"row": "control", "runs": 1, "twin": None, "changes": []},
    "wide": {"row": "control", "runs": 2, "twin": None, "changes": ["network_args.channels=[16,16,16,32]"]},
}


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "tiny.json"
    changes = ["image_size=16", "network_args.channels=[16,16,16,16]"]
    texts = {"question": "?", "stop_rule": "all runs", "data": "few", "recipe": "cifar10_fast", "changes": changes}
    path.write_text(json.dumps({**texts, "arms": ARMS}))
    return path


def time(experiment, tmp_path, **arguments):
    prices.main(experiment, out=tmp_path, runtimes=("eager",), batch=(1,), rounds=2, classes=10, **arguments)


def test_larger_networks_are_timed_and_the_table_says_so(experiment, tmp_path):
    time(experiment, tmp_path, changes=("image_size=32",), name="large")
    found = json.loads((tmp_path / "prices-tiny-large.json").read_text())
    assert found["size"] == [32, 32]
    top1 = {"dense": [50.0], "control": [40.0], "wide": [41.0, 42.0]}
    runs = [{"arm": arm, "results": [{"accuracy": {"top1_pct": one}} for one in top1[arm]]} for arm in ARMS]
    said = "The times are of larger networks, with image_size=32; the accuracies are not."
    assert said in returns_table({"arms": runs}, found)


@pytest.mark.parametrize("path", ["network_args.channels", "networks.network_args.channels"])
def test_a_change_that_an_arm_has_itself_is_refused(experiment, tmp_path, path):
    """It would time all arms with the same widths."""
    with pytest.raises(ValueError, match=r"the arm wide has its own network_args\.channels"):
        time(experiment, tmp_path, changes=(f"{path}=[32,32,32,32]",), name="large")


def test_the_file_of_another_experiment_is_not_overwritten(experiment, tmp_path):
    (tmp_path / "tiny-long.json").write_text("{}")
    with pytest.raises(ValueError, match="is the file of the experiment tiny-long"):
        time(experiment, tmp_path, changes=("image_size=32",), name="long")
    with pytest.raises(ValueError, match="must be given together"):
        time(experiment, tmp_path, name="long")
