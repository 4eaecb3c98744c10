"""Which channels of a network do nothing, and the network without them."""
