"""Removing the channels of a network that have no effect."""
