"""The names of the data sets. Importing this loads nothing else."""

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100", "imagefolder", "imagenet")
"""What :func:`dirprune.data.load` takes; a folder may follow a colon."""
