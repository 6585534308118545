"""What a task is: a frozen dataclass of its own options that opens data, has a loss, scores networks and predicts."""

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
from cnnmod.training.images import Batch, Data, Progress
from cnnmod.training.options import ImageOptions
from cnnmod.training.predictions import Prediction
from cnnmod.training.scores import Metric, Score

Loss = Callable[[Callable[..., Any], Any, Any], Tensor]  # model, images, labels → loss
TaskT = TypeVar("TaskT", bound="Task")

_GROUP = "cnnmod.tasks"  # of entry points


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What the networks of a recipe do.

    A task derives from this class, is a frozen dataclass with its options as fields, each with a default, and is
    registered by `register_task`. It must have `score` and the five abstract methods.

    Attributes:
        name: What recipes and files call it; `register_task` sets it.
        score: What its metric computes.
        test_batch_size: Images at a time while a network is tested; 1 where they may have any size.
        one_class_each: Whether a label is the number of the image's class.
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
            place: What the user gave: a folder, or a name that the task knows.
            images: How images are prepared, and how many are trained on.
            workers: Processes that decode, if the images are decoded as they come.
            skip_broken: Leave broken images out, and name them in the batches, instead of stopping at the first.
            progress: May be called with what is done, how much of it is, and how much there is.

        Raises:
            OSError: The place does not exist.
            ValueError: What is there is not what the task needs.
        """

    @abstractmethod
    def prepare(self, image: Image.Image, images: ImageOptions) -> Batch:
        """A batch of one image, as the network is tested on it; its label means nothing."""

    @abstractmethod
    def loss(self, num_classes: int, device: torch.device) -> Loss:
        """A function (model, images, labels) → loss."""

    @abstractmethod
    def metric(self, num_classes: int, device: torch.device) -> Metric:
        """What the test images are scored by."""

    @abstractmethod
    def predict(self, outputs: Any, size: tuple[int, int], threshold: float) -> Prediction:
        """What the outputs for a batch of one image say.

        Args:
            outputs: The network's, in evaluation mode.
            size: The image's height and width.
            threshold: The lowest score of what is returned, where there are scores.
        """

    def check(self, images: ImageOptions) -> None:  # noqa: B027  it may be left out
        """Check options of the task together with the images'.

        Raises:
            ValueError: They do not go together.
        """

    def check_data(self, data: Data, progress: Progress) -> None:  # noqa: B027
        """Called before the first step of a training.

        Raises:
            ValueError: Nothing can be learned from the data.
        """

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the networks' factories: those that the recipe gives, and the task's.

        Raises:
            ValueError: The given ones do not go with the task's options.
        """
        return dict(given)

    def load_weights_(self, model: nn.Module, row: str) -> None:  # noqa: B027
        """Give a fresh network of a row the weights that it starts from, if the options name a file.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is of another network.
        """

    def to_dict(self) -> dict[str, Any]:
        """Name and options as JSON values; `read_task` reads them back."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.loads(json.dumps({"name": self.name, **options}))


TASKS: dict[str, type[Task]] = {}


def register_task(name: str) -> Callable[[type[TaskT]], type[TaskT]]:
    """Register a task's class, so that recipes and files can name it.

    A package may instead name the class as an entry point of the group `cnnmod.tasks`.

    Raises:
        ValueError: A task has this name, or the class is not a whole task; the error says what is missing.

    Examples:
        >>> @register_task("classification")
        ... class Mine:
        ...     pass
        Traceback (most recent call last):
        ...
        ValueError: a task 'classification' is registered already, by cnnmod.training.tasks.classification
    """

    def add(task: type[TaskT]) -> type[TaskT]:
        if name in TASKS:
            raise ValueError(f"a task {name!r} is registered already, by {TASKS[name].__module__}")
        _check(name, task)
        task.name = name
        TASKS[name] = task
        return task

    return add


def find_task(name: str) -> type[Task]:
    """The class of a registered task, or of an installed package's entry point.

    Raises:
        ValueError: There is none, with the nearest names; or the package cannot be imported.
    """
    for entry in entry_points(group=_GROUP, name=name) if name not in TASKS else ():
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the task {name!r} cannot be imported from {entry.value}: {error}") from error
        if name not in TASKS:  # importing it may have registered it
            register_task(name)(found)
    if name not in TASKS:
        raise ValueError(f"{unknown_name('task', name, TASKS)} (a task from outside must be imported first)")
    return TASKS[name]


def _check(name: str, task: Any) -> None:
    if not (inspect.isclass(task) and issubclass(task, Task) and "__dataclass_params__" in vars(task)):
        raise ValueError(f"the task {name!r} must be a frozen dataclass that derives from Task, not {task!r}")
    if missing := sorted(task.__abstractmethods__):
        raise ValueError(f"the task {name!r} ({task.__name__}) has no {', '.join(missing)}")
    score = getattr(task, "score", None)
    if not (inspect.isclass(score) and issubclass(score, Score)):
        raise ValueError(f"the task {name!r} ({task.__name__}) has no score, a class that derives from Score")
    missing = [needed for needed in ("main", "title") if not hasattr(score, needed)]
    if missing := [*sorted(score.__abstractmethods__), *missing]:
        raise ValueError(f"the score of the task {name!r} ({score.__name__}) has no {', '.join(missing)}")
    for field in dataclasses.fields(task):
        if field.name == "name" or (field.default, field.default_factory) == (dataclasses.MISSING,) * 2:
            why = "is the task's own" if field.name == "name" else "has no default"
            raise ValueError(f"the task {name!r} ({task.__name__}): the option {field.name!r} {why}")
