"""The tasks that networks can be trained for, each with its own options."""

from cnnmod.training.tasks.base import TASKS, Loss, Task, find_task, register_task
from cnnmod.training.tasks.classification import Classification
from cnnmod.training.tasks.detection import Detection
from cnnmod.training.tasks.segmentation import Segmentation

__all__ = ["TASKS", "Classification", "Detection", "Loss", "Segmentation", "Task", "find_task", "register_task"]
