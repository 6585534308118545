import itertools
from dataclasses import replace

from cnnmod.tuning.losses import Loss
from cnnmod.tuning.plans import make_plans
from tune_folder import MadeUpMeter, made_up


class CrowdedMeter(MadeUpMeter):
    """Measures more than the sum where two neighbors are replaced."""

    def measure_plan(self, labels):
        loss, values = super().measure_plan(labels), list(labels.values())
        crowded = sum(one != "keep" and other != "keep" for one, other in itertools.pairwise(values))
        return Loss(loss.cross_entropy + crowded, loss.accuracy_pct)


def test_a_budget_gets_the_plan_with_the_smallest_measured_cross_entropy():
    made = made_up()
    assert made.losses is not None
    dense = made.losses.dense
    meter = CrowdedMeter(made.losses)
    crowded = make_plans(made.space, "eager", made.times, meter, made.chosen.budget, (0.9, 0.6))

    def cross_entropy(labels):
        return meter.measure_plan(labels).cross_entropy - dense.cross_entropy

    for plan in crowded.front:
        assert plan.time <= plan.budget + 1e-6
        assert plan.cross_entropy == cross_entropy(plan.labels)
    assert crowded.chosen.cross_entropy <= cross_entropy(made.chosen.labels)


def test_new_statistics_of_the_dense_network_are_no_gain_of_a_plan():
    made = made_up()
    assert made.losses is not None
    losses = replace(made.losses, dense=Loss(made.losses.dense.cross_entropy + 1, made.losses.dense.accuracy_pct - 50))
    again = make_plans(made.space, "eager", made.times, MadeUpMeter(losses), made.chosen.budget, (0.9, 0.6))
    assert again.chosen == made.chosen


def test_a_smaller_budget_is_not_more_accurate():
    values = [plan.cross_entropy for plan in made_up().front]
    assert values == sorted(values)


def test_without_images_there_is_one_plan_for_each_budget_and_its_blocks_are_in_different_modules():
    made = made_up(with_images=False)
    assert all(plan.cross_entropy is None for plan in made.front)
    for plan in made.front:
        replaced = [sum(plan.labels[block.name] != "keep" for block in group) for group in made.space.groups()]
        assert max(replaced) - min(replaced) <= 2
