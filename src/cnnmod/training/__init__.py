"""Weights: data and the training loop."""
