"""What every floor shares: files, checkpoints, processes, the C++ extension."""
