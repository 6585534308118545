"""Choose what becomes of each block of a network, within a time budget in a runtime of this machine."""

from cnnmod.tuning.result import Tuned, TunedPlan
from cnnmod.tuning.space import Space, SpaceBlock
from cnnmod.tuning.times import TimeCheck, TimeTable
from cnnmod.tuning.tune import tune

__all__ = ["Space", "SpaceBlock", "TimeCheck", "TimeTable", "Tuned", "TunedPlan", "tune"]
