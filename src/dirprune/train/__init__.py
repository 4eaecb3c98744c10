"""One training run: configuration, recipes, methods, the training loop and the run folder."""
