import json

import pytest

from cnnmod.measure.experiment import read_experiment, run_experiment
from cnnmod.report.experiment import experiment_table
from cnnmod.training.data import open_data
from cnnmod.training.recipes import recipe


def test_rows_and_seeds_are_trained_once(tmp_path):
    made = recipe("digits", ["epochs=1", "warmup_epochs=0", "train_images=128", "network_args.layers=[2,2,1,1]"])
    data = open_data("digits", made)
    trained = []

    def run(rows, seeds):
        return run_experiment(
            "digits", made, rows, seeds, "digits", data, tmp_path, progress=lambda *what: trained.append(what[0])
        )

    run(["baseline"], [0])
    assert set(trained) == {"baseline, seed 0"}
    trained.clear()
    found = run(["baseline", "mod", "control"], [0, 1])
    assert set(trained) == {"baseline, seed 1", "worth of the MoD blocks"} | {
        f"{row}, seed {seed}" for row in ("mod", "control") for seed in (0, 1)
    }
    trained.clear()
    assert run(["baseline", "mod", "control"], [0, 1]).rows == found.rows
    assert trained == []
    assert read_experiment(tmp_path / "accuracy.json").rows == found.rows
    baseline, mod, control = found.rows
    assert len(set(mod.each_pct)) == 2 or mod.std_pct == 0
    assert mod.mean_pct == pytest.approx(sum(mod.each_pct) / 2)
    assert baseline.results[0].parameters > mod.results[0].parameters > control.results[0].parameters
    cells = experiment_table(found)
    assert [row[0] for row in cells.rows] == ["baseline", "mod", "control"]
    assert cells.rows[2][3] == ""
    assert float(cells.rows[1][3].split(" ±")[0]) == pytest.approx(mod.mean_pct - control.mean_pct, abs=0.006)
    assert found.accuracies() == {
        "resnet18_cifar": baseline.mean_pct,
        "resnet18_cifar_mod": mod.mean_pct,
        "resnet18_cifar_mod control": control.mean_pct,
    }
    whole = (tmp_path / "accuracy.json").read_text()
    for change, message in (
        (lambda v: v.update(rows=[]), "rows must be one or more of baseline, mod and control"),
        (lambda v: v["rows"].append(v["rows"][0]), "rows must be one or more of"),
        (lambda v: v["rows"][1].update(results=[]), "mod must have one result per seed"),
        (lambda v: v["rows"][2]["seeds"].pop(), "control must have one result"),
    ):
        values = json.loads(whole)
        change(values)
        (tmp_path / "broken.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=message):
            read_experiment(tmp_path / "broken.json")
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in found.networks().values()]
    assert counts == [baseline.results[0].parameters, mod.results[0].parameters]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "cnnmod.accuracy/1"}', "fields missing"),
    ],
)
def test_invalid_files_raise(content, error, tmp_path):
    (tmp_path / "accuracy.json").write_text(content)
    with pytest.raises(ValueError, match=error):
        read_experiment(tmp_path / "accuracy.json")
