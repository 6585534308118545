from cnnmod.report.front import draw_front
from tune_folder import made_up


def test_each_plan_is_a_point_and_the_chosen_plan_has_a_ring():
    tuned = made_up(skip_cost=0.15, budget=0.73)
    (axes,) = draw_front(tuned).axes
    points = {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in axes.lines}
    assert points["dense network"] == [(1.0, 0.0)]
    expected = {(plan.time, plan.cross_entropy): plan.count() for plan in tuned.front}
    assert {(plan.time, plan.cross_entropy) for plan in tuned.front} == {
        *points["with MoD blocks"],
        *points["skipped blocks only"],
    }
    assert all(expected[point][0] for point in points["with MoD blocks"])
    assert not any(expected[point][0] for point in points["skipped blocks only"])
    assert points["chosen plan"] == [(tuned.chosen.time, tuned.chosen.cross_entropy)]
