import json

import pytest

from cnnmod import demo
from cnnmod.cli import run
from cnnmod.demo import run_demo
from cnnmod.measure.results import read_result
from cnnmod.training.recipes import recipe


@pytest.mark.slow
def test_demo_writes_all_files(tmp_path, monkeypatch, capsys):
    """Run the demo with fewer epochs and a smaller network to time."""
    monkeypatch.setattr(
        demo, "_RECIPE", recipe("digits", ["epochs=3", "warmup_epochs=1", "network_args.layers=[2,2,1,1]"])
    )
    monkeypatch.setattr(demo, "_TIMED", ("mobilenetv2_100", "mobilenetv2_mod"))
    seen = []
    made = run_demo(tmp_path / "new" / "folder", lambda *what: seen.append(what))
    assert {file.name for file in made.files} == {
        "report.html",
        "digits.json",
        "imagenet.json",
        "figure.png",
        "table.md",
        "best.safetensors",
    }
    checkpoint = tmp_path / "new" / "folder" / "digits_mod" / "best.safetensors"
    assert {*(tmp_path / "new" / "folder").iterdir()} == {*made.files} - {checkpoint} | {checkpoint.parent}
    run(["inspect", str(checkpoint), "--data", "digits", "--json"])
    assert json.loads(capsys.readouterr().out)["blocks"]
    assert read_result(tmp_path / "new" / "folder" / "digits.json") == made.digits
    assert [row.name for row in made.digits.rows] == ["digits", "digits_mod", "digits_mod control"]
    assert all(row.accuracy_pct > 30 for row in made.digits.rows)
    assert ("training digits_mod control", 63, 63) in seen


def test_unwritable_folder_raises_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run_demo(tmp_path / "file" / "folder", lambda *what: pytest.fail("the training started"))
