"""Points in weight space, data that stays the same, and the loss there."""
