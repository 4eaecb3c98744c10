"""The methods that can be compared, grouped by how a comparison treats them."""

REFERENCES = ("grda", "grda_momentum")
"""In a comparison, the first of these sets the sparsity of the other methods."""
CALIBRATED = ("prox_sgd", "rda")
"""Methods whose ``c`` is searched until they reach that sparsity."""
MASKED = ("gmp", "gmp_momentum", "hard", "rigl", "acdc", "magnitude_finetune", "random")
"""Methods whose option ``sparsity`` sets the final sparsity."""
TARGETED = (*MASKED, "adam_grda")
"""Methods that take that sparsity as an option: ``sparsity``, or adam_grda's target."""
DENSE = ("sgd", "sgd_momentum")
"""Methods whose finished networks ``magnitude`` prunes."""
TRAINED = (*DENSE, *REFERENCES, *CALIBRATED, *MASKED, "adamw", "adam_grda")
"""All methods of ``train``."""
COMPARED = (
    *(*DENSE, *REFERENCES, *CALIBRATED),
    *("gmp", "gmp_momentum", "magnitude", "magnitude_finetune", "random"),
)
"""The methods of a comparison by default."""
COMPARABLE = (*TRAINED, "magnitude")
"""All methods that can be compared."""
