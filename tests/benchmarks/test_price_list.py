import math

import pytest
from price_list import draw, family_of, over_dense, price_table, read_accuracies, times


def experiment(**top1):
    return {
        "arms": [
            {"arm": arm.replace("_", "-"), "results": [{"accuracy": {"top1_pct": value}} for value in values]}
            for arm, values in top1.items()
        ]
    }


def prices(**times_ms):
    named = {arm.replace("_", "-"): [value] * 3 for arm, value in times_ms.items()}
    return {
        "conditions": [{"runtime": "onnxruntime", "batch_size": 1, "times_ms": named}],
        "size": [32, 32],
        "provenance": {"processor": "CPU", "threads": 2, "versions": {"torch": "2"}},
    }


def test_families():
    arms = ("width-12", "depth-333", "control", "dense", "pruned-25", "control-se", "control-se-timm", "static-8")
    assert [family_of(arm) for arm in arms] == [
        *("width", "depth", "depth", "depth", "pruned"),
        *("squeeze-and-excitation", "squeeze-and-excitation", "MoD"),
    ]


def test_deviation_is_pooled_over_the_arms():
    found = read_accuracies(experiment(control=[40.0, 42.0], dense=[50.0, 50.0], paper=[41.0], topk=[]))
    assert found.degrees == 2
    assert found.deviation == 1.0  # the variances are 2 and 0
    assert found.half(1) == pytest.approx(4.303, abs=1e-3)  # Student's t with two degrees of freedom
    assert list(found.arms) == ["control", "dense", "paper"]


def test_interval_is_unknown_if_no_arm_ran_twice():
    assert math.isnan(read_accuracies(experiment(control=[40.0], dense=[50.0])).half(1))


def test_arm_is_compared_with_a_dense_network_of_the_same_time():
    found = read_accuracies(
        experiment(control=[40.0, 42.0], width_24=[43.0, 43.0], dense=[45.0, 45.0], paper=[44.0, 44.0])
    )
    # width-24 is slower and less accurate than dense, and therefore not a neighbor
    time = {"control": 1.0, "width-24": 2.5, "dense": 2.0, "paper": 1.5}
    gain, half = over_dense("paper", time, found) or (
        0,
        0,
    )
    assert gain == 44 - (41 + 45) / 2
    assert half == pytest.approx(found.half(1 / 2 + 1 / 8 + 1 / 8))
    gain, half = over_dense("paper", time | {"paper": 3.0}, found) or (0, 0)  # slower than the best dense network
    assert gain == 44 - 45
    assert half == pytest.approx(found.half(1 / 2 + 1 / 2))
    assert over_dense("paper", time | {"paper": 0.9}, found) is None  # faster than all dense networks


def test_times_are_medians_of_ratios():
    times_ms = {"control": [1.0, 2.0, 4.0], "paper": [2.0, 2.0, 6.0]}
    assert times({"times_ms": times_ms}) == {"control": 1.0, "paper": 1.5}


def test_table_has_a_row_for_each_arm_that_ran():
    found = experiment(control=[40.0, 42.0], dense=[45.0, 45.0], paper=[44.0], pruned_25=[])
    table = price_table(found, prices(control=1.0, dense=2.0, paper=1.5, pruned_25=1.0))
    assert "| paper | 1 | 44.0 ±4.3 | 1.50: +1.0 ±" in table
    assert "| dense | 2 | 45.0 ±3.0 | 2.00 |" in table
    assert "pruned-25" not in table
    assert "medians of 3 interleaved rounds" in table


def test_arm_that_was_not_timed_is_left_out():
    found = experiment(control=[40.0, 42.0], wide=[41.0, 41.0], dense=[45.0, 45.0], paper=[44.0, 44.0])
    lines = price_table(found, prices(control=1.0, dense=2.0, paper=1.5)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| control", "| dense", "| paper"]
    assert "1.50: +1.0" in lines[4]  # between the control and the dense network


def test_table_without_repeated_runs_has_no_intervals():
    table = price_table(experiment(control=[40.0], dense=[45.0]), prices(control=1.0, dense=2.0))
    assert "| dense | 1 | 45.0 | 2.00 |" in table
    assert "nan" not in table


def test_figure_is_written(tmp_path):
    found = experiment(control=[40.0, 42.0], dense=[45.0], width_12=[38.0], paper=[44.0], control_se=[43.0])
    draw(found, prices(control=1.0, dense=2.0, width_12=0.8, paper=1.5, control_se=1.1), tmp_path / "prices.png")
    assert (tmp_path / "prices.png").read_bytes().startswith(b"\x89PNG")
