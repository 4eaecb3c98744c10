"""Hessian products, eigenvalues and spectral densities."""
