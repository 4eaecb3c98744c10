"""The optimizers' base class: state, options, and the order of a step."""
