"""The curvature of a loss at a network's weights."""

from dirprune.landscape.curvature.products import CurvatureProducts


class Hessian(CurvatureProducts):
    r"""The Hessian of the mean loss by all trainable weights, as products.

    .. math:: H v = \frac1N \sum_{i=1}^N \nabla^2_w \ell(f_w(x_i), y_i)\, v

    over all the data; batches are weighted as the loss weighs its targets (see
    :class:`Objective`), and sums are taken in float64. Products are computed on a private copy in
    evaluation mode, without dropout, TF32 and autocast. In a process group every process
    multiplies its share of the batches, and all processes must make the call.

    If all operations are known, the network is captured as a list of steps, frozen BatchNorm is
    folded into the convolution before it, and products use Pearlmutter's R-operator; results that
    do not depend on the vector are kept between products where memory allows. Otherwise both
    orders of automatic differentiation are timed on part of a batch, and the faster one is used.

    With ReLU or max-pooling the Hessian is discontinuous: if the input of a unit is as small as
    the rounding error, about 1e-7 in float32, the order of summation decides whether the unit is
    active, and this order differs between memory formats, batch sizes, libraries and float64. One
    such unit among millions can change a product by 1e-3 of its length. Each result is the Hessian
    at weights that differ in the last digit. One object always multiplies by the same matrix; two
    objects may not.

    Args:
        model: Any module that maps a batch of inputs to outputs; see :class:`Objective`.
        loss: Mean loss of a batch, such as ``F.cross_entropy``.
        data: Frozen and un-augmented: a list of (inputs, targets), a DataLoader without shuffling,
            or two tensors; two passes over it are compared.
        batchnorm: ``eval`` normalises by the running statistics. ``batch`` normalises every batch
            by its own statistics and differentiates through them; then the result depends on the
            batches.
        parameters: Names of the parameters to differentiate by, or a predicate of name and
            parameter; by default all trainable ones.
        dtype: Dtype of the arithmetic, by default the model's own, but at least float32.
        mode: ``auto`` as described, or the name of one method.
        keep: Bytes for intermediate results that do not depend on the vector, by default a quarter
            of the device's available memory, and at most all of it.

    Raises:
        TypeError: If an argument has the wrong type, or an operation cannot be differentiated
            twice; the message names it.
        ValueError: If the data is empty or differs between two passes, the loss is not a weighted
            mean or not finite, products are random or not symmetric, or no parameter is selected.

    Attributes:
        dimension: d.
        dtype: Dtype of the vectors.
        device: Device of the vectors.
        shapes: Shapes of the selected parameters by name, in the order of a vector.
        products: Number of products so far.
        loss: The mean loss; NaN before the first product.
        timings: Seconds per product of each method, on part of a batch.

    References:
        Fast Exact Multiplication by the Hessian (Pearlmutter, 1994)

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> model = nn.Linear(2, 1, bias=False)
        >>> hessian = Hessian(model, nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> hessian(torch.tensor([1.0, 0.0]))
        tensor([2., 2.])
    """

    _gauss_newton = False


class GaussNewton(CurvatureProducts):
    r"""The generalised Gauss-Newton matrix, without the network's own curvature.

    .. math:: G = \frac1N \sum_{i=1}^N J_i^\top \, \nabla^2_z \ell(z_i, y_i)\, J_i, \qquad
        J_i = \frac{\partial f_w(x_i)}{\partial w}

    It has no negative eigenvalues if the loss is convex in the outputs. It equals the Hessian if
    the network is linear in its weights, and the Fisher information matrix for cross-entropy.
    Arguments and attributes are those of :class:`Hessian`.

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020), section 8,
        https://arxiv.org/abs/1412.1193

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> model = nn.Linear(2, 1, bias=False)
        >>> matrix = GaussNewton(model, nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> matrix(torch.tensor([0.0, 1.0]))
        tensor([2., 4.])
    """

    _gauss_newton = True
