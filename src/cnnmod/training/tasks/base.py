"""The base class and the registry of tasks."""

import dataclasses
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from cnnmod.records.changes import unknown_name
from cnnmod.records.parse import has_default
from cnnmod.records.progress import Progress
from cnnmod.training.images import Batch, Data
from cnnmod.training.metrics import Metric
from cnnmod.training.options import ImageOptions
from cnnmod.training.predictions import Prediction
from cnnmod.training.scores import Score

Loss = Callable[[Callable[..., Any], Any, Any], Tensor]  # model, images, labels → loss
TaskT = TypeVar("TaskT", bound="Task")

_ENTRY_POINTS = "cnnmod.tasks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base class of tasks: how to open data, compute the loss, score a network and convert outputs to predictions.

    A task is a frozen dataclass that derives from this class. Its fields are its options, and each has a default.
    A task is registered with `register_task`, sets `score` and implements the five abstract methods.

    Attributes:
        name: The name of the task in recipes and files. `register_task` sets it.
        score: The class of the score that the metric computes.
        test_batch_size: The batch size for evaluation. Use 1 if image sizes vary.
        one_class_each: Whether each label is the class index of an image.
        teacher: The teacher for distillation: `"dense"`, a checkpoint or the name of a network. `None` is for none. A
            task with a teacher implements `loss_with`.
    """

    name: ClassVar[str]
    score: ClassVar[type[Score]]
    test_batch_size: ClassVar[int] = 1
    one_class_each: ClassVar[bool] = False

    @abstractmethod
    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        """Open a data set.

        Args:
            place: A folder, or the name of a data set that the task knows.
            images: How to prepare the images, and how many to train on.
            workers: Number of processes that decode images. Ignored if all images are decoded once.
            skip_broken: Skip broken images and list them in `Batch.broken`. Otherwise the first one is an error.
            progress: A callback (description, done, total). A task may call it during long work.

        Raises:
            OSError: If the folder does not exist.
            ValueError: If the data do not fit the task.
        """

    @abstractmethod
    def prepare(self, image: Image.Image, images: ImageOptions) -> Batch:
        """Return a batch with one image, transformed as for evaluation. The label is a placeholder."""

    @abstractmethod
    def loss(self, num_classes: int, device: torch.device) -> Loss:
        """Return a function (model, images, labels) → loss."""

    def teacher_name(self) -> str | None:
        """Return the teacher for distillation: `"dense"`, a checkpoint, the name of a network, or `None` for none."""
        return None

    def loss_with(self, teacher: nn.Module | None, num_classes: int, device: torch.device) -> Loss:
        """Return the loss with a teacher, which is set to evaluation mode. Override it together with `teacher_name`."""
        return self.loss(num_classes, device)

    @abstractmethod
    def metric(self, num_classes: int, device: torch.device) -> Metric:
        """Return the metric for evaluation."""

    @abstractmethod
    def predict(self, outputs: Any, size: tuple[int, int], threshold: float) -> Prediction:
        """Convert the outputs for a batch of one image to a prediction.

        Args:
            outputs: The outputs of the network in evaluation mode.
            size: The height and width of the image.
            threshold: Predictions with a lower score are dropped. Ignored by tasks without scores.
        """

    def check(self, images: ImageOptions) -> None:  # noqa: B027  optional
        """Check that the options of the task and of the images are compatible.

        Raises:
            ValueError: If they are not compatible.
        """

    def check_data(self, data: Data, progress: Progress) -> None:  # noqa: B027  optional
        """Check the data. Called once, before the first training step.

        Raises:
            ValueError: If the data cannot be used for training.
        """

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for the factories of the networks.

        Args:
            images: The image options of the recipe.
            given: The `network_args` of the recipe.

        Returns:
            The given arguments, and the ones that the task adds.

        Raises:
            ValueError: If the given arguments and the options of the task are incompatible.
        """
        return dict(given)

    def load_weights_(self, model: nn.Module, row: str) -> None:  # noqa: B027  optional
        """Load the initial weights of a row, if the options name a file. Called on a newly built network.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file belongs to another network.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the options as JSON values."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.loads(json.dumps({"name": self.name, **options}))


TASKS: dict[str, type[Task]] = {}


def register_task(name: str) -> Callable[[type[TaskT]], type[TaskT]]:
    """Register the class of a task under a name for recipes and files.

    A package can declare the class as an entry point of the group `cnnmod.tasks` instead.

    Raises:
        ValueError: If the name is already registered, or if the class is incomplete. The error names the missing parts.

    Examples:
        >>> @register_task("classification")
        ... class Mine:
        ...     pass
        Traceback (most recent call last):
        ...
        ValueError: the task 'classification' is already registered by cnnmod.training.tasks.classification
    """

    def add(task: type[TaskT]) -> type[TaskT]:
        if name in TASKS:
            raise ValueError(f"the task {name!r} is already registered by {TASKS[name].__module__}")
        _check(name, task)
        task.name = name
        TASKS[name] = task
        return task

    return add


def find_task(name: str) -> type[Task]:
    """Return the class of a task that is registered or declared as an entry point of an installed package.

    Raises:
        ValueError: If no task has this name (the error lists the nearest names), or the package cannot be imported.
    """
    for entry in entry_points(group=_ENTRY_POINTS, name=name) if name not in TASKS else ():
        try:
            task = entry.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the task {name!r} cannot be imported from {entry.value}: {error}") from error
        if name not in TASKS:  # the import may have registered the task
            register_task(name)(task)
    if name not in TASKS:
        raise ValueError(f"{unknown_name('task', name, TASKS)} (import the module of your own task first)")
    return TASKS[name]


def _check(name: str, task: Any) -> None:
    if not (inspect.isclass(task) and issubclass(task, Task) and "__dataclass_params__" in vars(task)):
        raise ValueError(f"the task {name!r} must be a frozen dataclass and a subclass of Task, not {task!r}")
    if missing := sorted(task.__abstractmethods__):
        raise ValueError(f"the task {name!r} ({task.__name__}) has no {', '.join(missing)}")
    score = getattr(task, "score", None)
    if not (inspect.isclass(score) and issubclass(score, Score)):
        raise ValueError(f"the task {name!r} ({task.__name__}) has no score, which must be a subclass of Score")
    missing = [attribute for attribute in ("main", "title") if not hasattr(score, attribute)]
    if missing := [*sorted(score.__abstractmethods__), *missing]:
        raise ValueError(f"the score of the task {name!r} ({score.__name__}) has no {', '.join(missing)}")
    for field in dataclasses.fields(task):
        if field.name == "name" or not has_default(field):
            reason = "is reserved for the name of the task" if field.name == "name" else "has no default"
            raise ValueError(f"the task {name!r} ({task.__name__}): the option {field.name!r} {reason}")
