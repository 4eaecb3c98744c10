"""Experiments: configuration, data, models, methods, the loop, run folders and recipes."""
