"""One step on a device: the C++ extension on CPUs, Triton on GPUs."""
