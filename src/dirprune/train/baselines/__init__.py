"""Optimizers that gRDA is compared with."""
