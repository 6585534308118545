"""Time several networks in one process, interleaved, so that the ratios of their times are meaningful."""

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Timed = Callable[[], object]


def time_interleaved(
    runs: Mapping[str, Timed],
    *,
    rounds: int,
    warmup: int = 2,
    threads: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time each run once per round, so that a slow phase of the machine affects all runs.

    Each round has a new random order, so that a run does not always follow the same other run. Python's garbage
    collector is disabled, as in timeit. On a GPU, the time includes synchronization with the device.

    Args:
        runs: The functions to time, by name.
        rounds: How many times each run is timed.
        warmup: The number of untimed rounds at the start.
        threads: The number of torch's threads during the rounds. `None` keeps the current number. It is restored
            afterwards.
        progress: Called after each round, including untimed rounds.

    Returns:
        The times of each run in milliseconds, one per round.

    Examples:
        >>> times = time_interleaved({"a": lambda: None, "b": lambda: None}, rounds=3)
        >>> {name: len(times_ms) for name, times_ms in times.items()}
        {'a': 3, 'b': 3}
    """
    from torch.utils.benchmark import timer  # imported here, since the import logs a missing CUDA toolkit

    names, shuffle = list(runs), random.Random(0).shuffle
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    with use_threads(threads), _no_garbage_collection():
        for round_index in range(warmup + rounds):
            shuffle(names)
            for name in names:
                start = timer()
                runs[name]()
                if round_index >= warmup:
                    times_ms[name].append((timer() - start) * 1e3)
            progress()
    return times_ms


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection, as timeit does. A collection would slow down the run that triggers it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Set the number of torch's intra-op threads, and restore it on exit."""
    previous = torch.get_num_threads()
    torch.set_num_threads(threads or previous)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
