"""The page of a landscape: from ``landscape.json`` alone."""
