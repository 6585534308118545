import time

import pytest
import torch

from cnnmod.measure.timing import time_interleaved, use_threads


def test_runs_are_interleaved_in_changing_order():
    order, rounds = [], []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times_ms = time_interleaved(runs, rounds=29, warmup=1, progress=lambda: rounds.append(len(order)))
    orders = {"".join(order[start : start + 3]) for start in range(0, 90, 3)}
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert rounds == [*range(3, 91, 3)]
    assert {name: len(times) for name, times in times_ms.items()} == {"a": 29, "b": 29, "c": 29}


def test_times_are_in_milliseconds():
    times_ms = time_interleaved({"sleep": lambda: time.sleep(0.02)}, rounds=2)
    assert all(19 < one < 200 for one in times_ms["sleep"])


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    seen = []
    time_interleaved({"a": lambda: seen.append(torch.get_num_threads())}, rounds=1, threads=1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), use_threads(1):
        raise KeyError
    assert torch.get_num_threads() == before
