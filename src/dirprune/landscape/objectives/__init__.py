"""Points in weight space, frozen data, and the loss."""
