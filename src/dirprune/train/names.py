"""The methods that can be compared, by what a comparison does with them."""

REFERENCES = ("grda", "grda_momentum")
"""The first of these that is compared sets the sparsity of the others."""
CALIBRATED = ("prox_sgd", "rda")
"""Methods whose ``c`` is searched for until they are as sparse."""
MASKED = ("gmp", "gmp_momentum", "hard", "rigl", "acdc", "magnitude_finetune", "random")
"""Methods whose ``sparsity`` option names the sparsity to end with."""
TOLD = (*MASKED, "adam_grda")
"""Methods that a comparison gives the sparsity to end with; ``adam_grda`` as its target."""
DENSE = ("sgd", "sgd_momentum")
"""Methods whose finished networks ``magnitude`` prunes."""
TRAINED = (*DENSE, *REFERENCES, *CALIBRATED, *MASKED, "adamw", "adam_grda")
"""Everything that ``train`` takes as its method."""
COMPARED = (
    *(*DENSE, *REFERENCES, *CALIBRATED),
    *("gmp", "gmp_momentum", "magnitude", "magnitude_finetune", "random"),
)
"""What a comparison trains by default."""
COMPARABLE = (*TRAINED, "magnitude")
"""Everything that can be compared."""
