"""From a trained network to one that its runtime runs fast."""
