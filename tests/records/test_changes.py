import pytest

from cnnmod.records.changes import read_change, unknown_name


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("milestones=[30, 60]", ("milestones", [30, 60])),
        ("ema=true", ("ema", True)),
        ("ema=True", ("ema", True)),
        ("teacher=a=b", ("teacher", "a=b")),
        ("name=", ("name", "")),
    ],
)
def test_values_are_json_or_words(change, read):
    assert read_change(change) == read


def test_change_without_equals_sign_raises():
    with pytest.raises(ValueError, match="a change must be field=value, not 'epochs'"):
        read_change("epochs")


def test_unknown_name_lists_the_nearest_or_all_names():
    known = dict.fromkeys(["epochs", "batch_size"])
    assert unknown_name("field", "epoch", known) == "unknown field 'epoch'; did you mean epochs?"
    assert unknown_name("field", "xyz", known) == "unknown field 'xyz'; the fields are epochs, batch_size"
