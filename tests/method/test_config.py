import json

import pytest

from cnnmod import MoDConfig

NOT_DEFAULT = [
    {"c": 32},
    {"reduction": 8},
    {"select": "random"},
    {"select": "first"},
    {"order": "index"},
    {"fuse_to": "last"},
    {"fuse_to": "original"},
    {"candidates": 4},
    {"residual": False},
    {"placement": "all"},
    {"placement": ("layer1.1", "layer2.1")},
]


@pytest.mark.parametrize("fields", NOT_DEFAULT, ids=str)
def test_repr_and_json_round_trip(fields):
    config = MoDConfig(**fields)
    assert eval(repr(config)) == config
    assert MoDConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config != MoDConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"c": -1}, r"c must be a positive integer or None, not -1"),
        ({"c": 0}, r"c must be a positive integer or None, not 0"),
        ({"c": 2.0}, r"c must be a positive integer or None, not 2\.0"),
        ({"c": True}, r"c must be a positive integer or None, not True"),
        ({"reduction": 0}, r"reduction must be a positive integer, not 0"),
        ({"reduction": None}, r"reduction must be a positive integer, not None"),
        ({"candidates": "4"}, r"candidates must be a positive integer or None, not '4'"),
        ({"select": "best"}, r"select must be one of 'learned', 'random', 'first', not 'best'"),
        ({"order": None}, r"order must be one of 'score', 'index', not None"),
        ({"fuse_to": "middle"}, r"fuse_to must be one of 'first', 'last', 'original', 'all', not 'middle'"),
        ({"residual": 1}, r"residual must be True or False, not 1"),
        ({"placement": "odd"}, r"placement must be 'alternate', 'all', a tuple of block names or a callable"),
        ({"placement": ["layer1.1"]}, r"placement must be .* not \['layer1\.1'\]"),
    ],
    ids=str,
)
def test_invalid_values_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        MoDConfig(**fields)


def test_unknown_fields_raise():
    with pytest.raises(ValueError, match=r"unknown MoDConfig field cc; the fields are c, candidates"):
        MoDConfig.from_dict({"cc": 1})


def test_callable_placement_cannot_be_stored():
    with pytest.raises(ValueError, match="a callable placement cannot be stored"):
        MoDConfig(placement=lambda module, position: True).to_dict()


def test_is_frozen():
    with pytest.raises(AttributeError):
        MoDConfig().c = 3
