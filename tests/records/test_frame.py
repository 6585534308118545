import sys

import pytest

from cnnmod.method.plan import plan
from small import shallow_resnet


def test_plan_as_dict_and_data_frame():
    pytest.importorskip("pandas", reason="pandas is optional")
    planned = plan(shallow_resnet())
    frame = planned.to_pandas()
    assert frame["name"].tolist() == [block["name"] for block in planned.to_dict()["blocks"]]


def test_missing_pandas_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"^to_pandas needs pandas; run: pip install pandas$"):
        plan(shallow_resnet()).to_pandas()
