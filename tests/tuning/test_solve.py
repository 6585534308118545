import itertools

import pytest

from cnnmod import MoDConfig
from cnnmod.tuning.solve import BudgetError, smallest, solve, usual_costs
from cnnmod.tuning.space import Space, SpaceBlock
from cnnmod.tuning.times import TimeTable

CHOICES = {"keep": None, "c=4": MoDConfig(c=4), "skip": "skip"}
SPACE = Space("Net", tuple(SpaceBlock(f"b{number}", 8, number % 2, CHOICES) for number in range(5)))
TABLE = TimeTable(10.0, [{"c=4": 0.07, "skip": 0.1}, {"c=4": 0.11, "skip": 0.19}], [])
COSTS = {f"b{number}": {"keep": 0.0, "c=4": 0.3 + number * 0.17, "skip": 0.5 + number * 0.1} for number in range(5)}


@pytest.mark.parametrize("budget", [0.4, 0.55, 0.7, 0.85, 1.0])
def test_the_solution_is_the_best_of_all_combinations(budget):
    found = solve(SPACE, TABLE, COSTS, budget)
    assert TABLE.predict(SPACE, found) <= budget + 1e-6

    def cost(labels):
        return sum(COSTS[name][label] for name, label in labels.items())

    names = [block.name for block in SPACE.blocks]
    every = (dict(zip(names, labels, strict=True)) for labels in itertools.product(CHOICES, repeat=5))
    best = min(cost(labels) for labels in every if TABLE.predict(SPACE, labels) <= budget + 1e-9)
    assert cost(found) == pytest.approx(best)


def test_a_budget_that_cannot_be_met_names_the_smallest():
    assert smallest(SPACE, TABLE) == pytest.approx(1 - 3 * 0.1 - 2 * 0.19)
    with pytest.raises(BudgetError, match=r"^the budget 0.200 \(2.00 ms\) cannot be met; the smallest .* 0.32"):
        solve(SPACE, TABLE, COSTS, 0.2)
    assert set(solve(SPACE, TABLE, COSTS, smallest(SPACE, TABLE)).values()) == {"skip"}


def test_usual_costs_prefer_few_changes_and_mod_blocks():
    labels = solve(SPACE, TABLE, usual_costs(SPACE), 0.8)
    assert sorted(labels.values()) == ["c=4", "c=4", "keep", "keep", "keep"]
    assert set(solve(SPACE, TABLE, usual_costs(SPACE), 1.0).values()) == {"keep"}


def test_spread_takes_the_best_of_all_combinations_with_the_costs_of_crowded_groups():
    skipped = sum(costs["skip"] for costs in COSTS.values()) / 5
    names = [block.name for block in SPACE.blocks]

    def cost(labels):
        crowded = 0.0
        for group in SPACE.groups():
            replaced = sum(labels[block.name] != "keep" for block in group)
            crowded += 2.0 * skipped * sum((2 * number + 1) / len(group) for number in range(replaced))
        return crowded + sum(COSTS[name][label] for name, label in labels.items())

    found = solve(SPACE, TABLE, COSTS, 0.7, spread=2.0)
    every = (dict(zip(names, labels, strict=True)) for labels in itertools.product(CHOICES, repeat=5))
    best = min(cost(labels) for labels in every if TABLE.predict(SPACE, labels) <= 0.7 + 1e-9)
    assert cost(found) == pytest.approx(best)


def test_spread_does_not_empty_a_group():
    costs = {block.name: {"keep": 0.0, "c=4": 1.0, "skip": 1.0 + 0.1 * (block.group == 0)} for block in SPACE.blocks}
    table = TimeTable(10.0, [{"c=4": 0.01, "skip": 0.1}, {"c=4": 0.01, "skip": 0.1}], [])

    def skipped_by_group(spread):
        labels = solve(SPACE, table, costs, 0.8, spread=spread)
        return [sum(labels[block.name] == "skip" for block in group) for group in SPACE.groups()]

    assert skipped_by_group(0.0) == [0, 2]
    assert skipped_by_group(1.0) == [1, 1]
