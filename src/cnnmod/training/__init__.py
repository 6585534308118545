"""Weights: data and the training loop."""

from cnnmod.training.data import Data, calibration_images, open_data
from cnnmod.training.evaluate import evaluate
from cnnmod.training.folder import Run
from cnnmod.training.loop import train
from cnnmod.training.predict import Predictor
from cnnmod.training.recipe import Recipe
from cnnmod.training.recipes import RECIPES, recipe
from cnnmod.training.run import Result, run_training
from cnnmod.training.scores import Accuracy, Overlap, Precision

__all__ = [
    "RECIPES",
    "Accuracy",
    "Data",
    "Overlap",
    "Precision",
    "Predictor",
    "Recipe",
    "Result",
    "Run",
    "calibration_images",
    "evaluate",
    "open_data",
    "recipe",
    "run_training",
    "train",
]
