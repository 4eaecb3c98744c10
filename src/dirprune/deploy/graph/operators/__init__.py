"""The operators of a graph: one record each, in one file for each family."""

from collections.abc import Mapping

from dirprune.deploy.graph.operators.arithmetic import ARITHMETIC
from dirprune.deploy.graph.operators.attention import ATTENTION
from dirprune.deploy.graph.operators.batch import BATCH
from dirprune.deploy.graph.operators.comparison import COMPARISON
from dirprune.deploy.graph.operators.convolution import CONVOLUTIONS
from dirprune.deploy.graph.operators.functions import FUNCTIONS
from dirprune.deploy.graph.operators.indexing import INDEXING
from dirprune.deploy.graph.operators.linear import LINEAR
from dirprune.deploy.graph.operators.moves import MOVES
from dirprune.deploy.graph.operators.normalisation import NORMALISATION
from dirprune.deploy.graph.operators.pointwise import POINTWISE
from dirprune.deploy.graph.operators.pooling import POOLING
from dirprune.deploy.graph.operators.record import Operator
from dirprune.deploy.graph.operators.reductions import REDUCTIONS
from dirprune.deploy.graph.operators.resizing import RESIZING
from dirprune.deploy.graph.operators.sorting import SORTING
from dirprune.deploy.graph.operators.transposed import TRANSPOSED
from dirprune.deploy.graph.operators.volumes import VOLUMES

CODES = (
    "conv2d", "linear", "batch_norm", "affine", "relu", "relu6", "leaky_relu", "elu", "gelu",
    "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "softmax", "add", "sub", "mul", "div",
    "constant", "cat", "slice", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "mean", "reshape", "permute", "pad", "upsample_nearest",
    "upsample_bilinear", "layer_norm", "dropout",
    "exp", "log", "abs", "sqrt", "rsqrt", "sin", "cos", "erf", "floor", "ceil", "round", "sign",
    "trunc", "log1p", "expm1", "mish", "selu", "logical_not", "softplus", "power", "clamp",
    "minimum", "maximum", "pow", "eq", "ne", "lt", "le", "gt", "ge", "where", "sum", "amax",
    "amin", "prod", "argmax", "argmin", "cumsum", "expand", "take", "embedding", "gather",
    "matmul", "group_norm", "conv1d", "conv_transpose2d", "dilate", "batch_size", "batch_index",
    "conv3d", "sort", "argsort", "atan",
)  # fmt: skip
"""The operators in the order of their codes in files: new ones go to the end."""

_ALL = {**CONVOLUTIONS, **LINEAR, **POINTWISE, **ARITHMETIC, **NORMALISATION, **MOVES, **POOLING,
        **REDUCTIONS, **RESIZING, **FUNCTIONS, **COMPARISON, **INDEXING, **ATTENTION,
        **TRANSPOSED, **BATCH, **VOLUMES, **SORTING}  # fmt: skip

OPERATORS: Mapping[str, Operator] = {name: _ALL[name] for name in CODES}
"""Every operator's record by its name."""
