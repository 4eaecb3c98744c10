"""Paths and planes through trained networks."""
