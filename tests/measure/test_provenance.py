import torch

from cnnmod.measure.provenance import Provenance


def test_provenance_says_what_and_where():
    made = Provenance.now(torch.device("cpu"), 2)
    assert made.versions["torch"] == torch.__version__.partition("+")[0] or made.versions["torch"] == torch.__version__
    assert made.device == "cpu"
    assert made.processor
    assert made.commit is None or len(made.commit.removesuffix("-dirty")) == 40
