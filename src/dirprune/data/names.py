"""The names of the data sets. Importing this module imports nothing else."""

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100", "imagefolder", "imagenet")
"""The names that :func:`dirprune.data.load` takes; some take ``:FOLDER`` behind the name."""
