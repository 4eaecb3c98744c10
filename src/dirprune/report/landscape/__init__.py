"""The page of a landscape, made only from ``landscape.json``."""
