import json

import pytest

from cnnmod.tuning.stored import is_tune_folder, read_tuned
from tune_folder import made_up, write_tune_folder


@pytest.mark.parametrize("with_images", [True, False])
def test_the_result_is_read_as_it_was_written(with_images, tmp_path):
    tuned = made_up(with_images=with_images)
    assert not is_tune_folder(tmp_path)
    folder = write_tune_folder(tmp_path / "tuned", tuned)
    assert is_tune_folder(folder)
    read, settings = read_tuned(folder)
    assert read == tuned
    assert settings.rounds == 20


@pytest.mark.parametrize("missing", ["space.json", "times.json", "front.json", "plan.json"])
def test_an_unfinished_folder_raises(missing, tmp_path):
    folder = write_tune_folder(tmp_path / "tuned")
    (folder / missing).unlink()
    with pytest.raises(ValueError, match="has no finished result of tune; run `cnnmod tune` with this folder again"):
        read_tuned(folder)


def test_wrong_values_name_the_block(tmp_path):
    folder = write_tune_folder(tmp_path / "tuned")
    values = json.loads((folder / "space.json").read_text())
    values["blocks"]["layer2.1"]["choices"]["c=4"] = "half"
    (folder / "space.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"space.json: block layer2.1: choice must be 'keep', 'skip' or the fields"):
        read_tuned(folder)
