"""The loss landscape around finished runs: what `dirprune landscape` does."""
