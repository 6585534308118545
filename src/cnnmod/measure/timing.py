"""Times of several networks, interleaved in one process: a ratio means something where a time alone does not."""

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Run = Callable[[], object]
Progress = Callable[[], None]


def time_interleaved(
    runs: Mapping[str, Run],
    *,
    rounds: int,
    warmup: int = 2,
    threads: int | None = None,
    progress: Progress = lambda: None,
) -> dict[str, list[float]]:
    """Time every run once a round, so that what disturbs the machine disturbs them all.

    Each round has an order of its own, so that none always follows the same other. Python's garbage collector rests,
    as in timeit. On a GPU, a run is timed until
    the device is done.

    Args:
        runs: What to time, by name.
        rounds: How many times each is timed.
        warmup: How many rounds go before, untimed.
        threads: torch's threads meanwhile; `None` leaves them. They are afterwards what they were.
        progress: Called after every round, untimed ones included.

    Returns:
        Each run's milliseconds, one a round.

    Examples:
        >>> times = time_interleaved({"a": lambda: None, "b": lambda: None}, rounds=3)
        >>> {name: len(times_ms) for name, times_ms in times.items()}
        {'a': 3, 'b': 3}
    """
    from torch.utils.benchmark import timer  # here: its import looks for a CUDA toolkit, and logs if there is none

    names, shuffle = list(runs), random.Random(0).shuffle
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    with use_threads(threads), _no_garbage_collection():
        for number in range(warmup + rounds):
            shuffle(names)
            for name in names:
                start = timer()
                runs[name]()
                if number >= warmup:
                    times_ms[name].append((timer() - start) * 1e3)
            progress()
    return times_ms


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As the standard library's timeit does: a collection falls on whichever run happens to trigger it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """torch's intra-op threads, set for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
