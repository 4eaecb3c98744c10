"""Shared helpers: files, checkpoints, processes and the C++ extension."""
