"""Kernels of one step: the C++ extension on CPUs, Triton on GPUs."""
