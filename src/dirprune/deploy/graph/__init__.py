"""The graph of a network: its operators, its capture, its execution in torch."""
