"""Data sets, recipes, tasks and the training loop."""

from cnnmod.training.data import Data, calibration_images, open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run
from cnnmod.training.loop import train
from cnnmod.training.options import ImageOptions, Networks, Optimization, System
from cnnmod.training.predict import Predictor
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import RECIPES, recipe
from cnnmod.training.run import Result, run_training
from cnnmod.training.scores import Accuracy, AveragePrecision, Overlap, Score
from cnnmod.training.tasks import TASKS, Classification, Detection, Segmentation, Task, register_task

__all__ = [
    "RECIPES",
    "TASKS",
    "Accuracy",
    "AveragePrecision",
    "Classification",
    "Data",
    "Detection",
    "ImageOptions",
    "Networks",
    "Optimization",
    "Overlap",
    "Predictor",
    "Recipe",
    "Result",
    "Run",
    "Score",
    "Segmentation",
    "System",
    "Task",
    "calibration_images",
    "evaluate",
    "open_data",
    "recipe",
    "register_task",
    "run_training",
    "train",
]
