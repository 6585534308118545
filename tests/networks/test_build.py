import pytest

from cnnmod.networks import build


def test_timms_own_and_ours():
    assert type(build("resnet18")) is type(build("resnet18_mod"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet75_mdo", "did you mean resnet75_mod"), ("mobilnetv2_mod", "mobilenetv2_mod"), ("?", r"timm\.list_models")],
)
def test_unknown_names(name, hint):
    with pytest.raises(ValueError, match=hint):
        build(name)
