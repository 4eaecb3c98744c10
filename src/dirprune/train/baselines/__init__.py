"""Optimizers that a comparison sets beside gRDA."""
