"""The methods that can be compared, by what a comparison does with them."""

REFERENCES = ("grda", "grda_momentum")
"""The first of these that is compared sets the sparsity of the others."""
CALIBRATED = ("prox_sgd", "rda")
"""Methods whose ``c`` is searched for until they are as sparse."""
MASKED = ("gmp", "gmp_momentum", "magnitude_finetune", "random")
"""Methods that are told how sparse to become."""
DENSE = ("sgd", "sgd_momentum")
"""Methods whose finished networks ``magnitude`` prunes."""
TRAINED = (*DENSE, *REFERENCES, *CALIBRATED, *MASKED)
"""Everything that ``train`` takes as its method."""
COMPARED = (*DENSE, *REFERENCES, *CALIBRATED, *MASKED[:2], "magnitude", *MASKED[2:])
"""Everything that can be compared."""
