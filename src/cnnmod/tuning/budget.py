"""Budget: the time that a network may take."""

from dataclasses import dataclass

from cnnmod.tuning.times import TimeTable


@dataclass(frozen=True)
class Budget:
    """A budget as a fraction of the dense network's time, or in milliseconds of a runtime.

    Raises:
        ValueError: If not exactly one of both is given, it is not positive, or the milliseconds have no runtime.
    """

    fraction_of_dense: float | None
    milliseconds: float | None
    runtime: str | None

    def __post_init__(self) -> None:
        if (self.fraction_of_dense is None) == (self.milliseconds is None):
            raise ValueError("give one budget: a fraction of the dense network's time, such as 0.7, or milliseconds")
        if self.fraction_of_dense is not None and not 0 < self.fraction_of_dense <= 1:
            raise ValueError(f"the budget must be more than 0 and at most 1, not {self.fraction_of_dense}")
        if self.milliseconds is not None:
            if not self.milliseconds > 0:
                raise ValueError(f"the budget must be more than 0 ms, not {self.milliseconds}")
            if self.runtime is None:
                raise ValueError("a budget in milliseconds needs a runtime, such as onnxruntime")

    def fraction(self, times: TimeTable) -> float:
        """Return the budget as a fraction of the dense network's time."""
        if self.milliseconds is not None:
            return self.milliseconds / times.dense_ms
        assert self.fraction_of_dense is not None
        return self.fraction_of_dense
