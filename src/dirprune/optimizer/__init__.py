"""The base class of the optimizers: state, options and the steps of an update."""
