from pathlib import Path

import pytest

from cnnmod.training.named import check_named
from cnnmod.training.recipes import recipe

PATH = Path("runs/own")


def test_factories_of_libraries_and_of_the_named_module_are_accepted():
    check_named(recipe("digits"), None, PATH)
    check_named(recipe("digits", network="timm/resnet18"), None, PATH)
    check_named(recipe("digits", ["network=mine:other"], network="mine:make"), "mine:make", PATH)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("baseline=mine:make", None),
        ("baseline=mine:make", "yours:make"),
        ("network_args.backbone=mine:make", None),
        ('network_args.parts=[1,["mine:make"]]', None),
        ("teacher=mine:make", None),
    ],
)
def test_other_factories_raise(change, named):
    with pytest.raises(ValueError, match="runs/own names 'mine:make', and a file may not import code"):
        check_named(recipe("digits", [change]), named, PATH)
