import re
from pathlib import Path

import torch

from cnnmod.records.provenance import Provenance


def test_provenance_has_versions_device_and_commit():
    made = Provenance.now(torch.device("cpu"), 2)
    assert made.versions["torch"] == torch.__version__.partition("+")[0] or made.versions["torch"] == torch.__version__
    assert made.device == "cpu"
    assert made.processor
    if (Path(__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", made.commit)
    else:
        assert made.commit is None
