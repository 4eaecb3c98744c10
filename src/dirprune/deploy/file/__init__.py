"""The compact file of a network."""
