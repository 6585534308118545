"""Lowered random networks compute the same as the training form, for several inputs."""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from random_networks import disagreement, plans

QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=10, **QUIET)
@given(plans)
def test_ten_random_networks_agree(plan):
    assert disagreement(plan) is None


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("CNNMOD_EXAMPLES", "10000")), **QUIET)
@given(plans)
def test_many_random_networks_agree(plan):
    assert disagreement(plan) is None
