import pytest

from cnnmod.report.difference import difference_text, half_interval


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ([2.0, 2.0], [1.0, 1.0], "+1.00"),  # neither side varies
        ([2.0], [1.0, 1.5], "+0.75"),  # one value has no interval
        ([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], "-2.00 ±4.16"),
    ],
)
def test_difference_with_its_interval(one, other, text):
    assert difference_text(one, other) == text


def test_interval_of_equal_values_is_zero():
    assert half_interval([1.0, 1.0], [2.0, 2.0]) == 0
