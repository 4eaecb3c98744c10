"""Triton kernels: one step of gRDA or AdamGRDA for many tensors in one launch.

A launch gets tables of addresses instead of tensors. Block b of the launch works on ``BLOCK``
consecutive elements of one tensor, named by ``blocks[b] = (row, ordinal)``; ``rows[row]`` holds
the addresses of w, v and the moments, and the number of elements; ``grads[row]`` the gradient's
address. Whole blocks of aligned tensors move 16 bytes a thread; the rest is masked.

Sums are rounded as eager PyTorch rounds them on CUDA: ``a + alpha * b`` once (``tl.fma``), all
others separately, so the kernels are launched with ``enable_fp_fusion=False``.
"""

# mypy: ignore-errors
import torch
import triton
import triton.language as tl

COLUMNS = 5  # of rows: w, v, first moment, second moment, number of elements
BLOCK = 1024
WARPS = 4
INTERPRETED = triton.knobs.runtime.interpret
DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@triton.jit
def threshold(v, g, POWER: tl.constexpr):
    """T_p(v, g) = sign(v) [|v|^p - g^p]_+^(1/p), by q = (|v| - g) / |v|, which does not cancel."""
    a = tl.abs(v)
    if POWER == 1.0:
        size = a - g
    elif float("inf") == POWER:
        size = a
    else:
        q = (a - g) / a
        if POWER == 2.0:
            size = a * tl.sqrt(q * (2.0 - q))
        elif POWER == 3.0:
            x = q * (3.0 - q * (3.0 - q))
            y = tl.exp2(tl.log2(x) * 0.3333333333333333)
            y -= (y * y * y - x) / (3.0 * y * y)  # one Newton step to full precision
            size = a * y
        else:
            x = 1.0 - tl.exp2(POWER * tl.log2(1.0 - q))
            size = a * tl.exp2(tl.log2(x) / POWER)
    return tl.where(a <= g, 0.0, tl.where(v < 0, -size, size))


@triton.jit
def inverse(w, v, g, POWER: tl.constexpr):
    """The point nearest to v whose threshold is w."""
    a = tl.abs(w)
    if POWER == 1.0:
        size = a + g
    elif float("inf") == POWER:
        size = tl.maximum(a, g)
    else:
        big = tl.maximum(a, g)
        s = tl.minimum(a, g) / big
        if POWER == 2.0:
            size = big * tl.sqrt(1.0 + s * s)
        else:
            size = big * tl.exp2(tl.log2(1.0 + tl.exp2(POWER * tl.log2(s))) / POWER)
    kept = tl.where(v == v, tl.minimum(tl.maximum(v, -g), g), 0.0)
    # NaN in w is kept in v, so that training detects it
    return tl.where(w == 0, kept, tl.where(w < 0, -size, tl.where(w == w, size, w)))


@triton.jit
def load(address, offsets, inside, DTYPE: tl.constexpr, WHOLE: tl.constexpr):
    pointer = address.to(tl.pointer_type(DTYPE))
    if WHOLE:
        pointer = tl.multiple_of(pointer, 16)
        values = tl.load(pointer + offsets)
    else:
        values = tl.load(pointer + offsets, mask=inside, other=0.0)
    return values


@triton.jit
def store(address, offsets, inside, values, DTYPE: tl.constexpr, WHOLE: tl.constexpr):
    pointer = address.to(tl.pointer_type(DTYPE))
    if WHOLE:
        pointer = tl.multiple_of(pointer, 16)
        tl.store(pointer + offsets, values.to(DTYPE))
    else:
        tl.store(pointer + offsets, values.to(DTYPE), mask=inside)


@triton.jit
def scalar(scalars, index: tl.constexpr, number, STATE: tl.constexpr, ON_DEVICE: tl.constexpr):
    """A scalar of the step; it is read from device memory if the step can be captured."""
    if ON_DEVICE:
        value = tl.load(scalars + index).to(STATE)
    else:
        value = tl.full((), number, STATE)
    return value


@triton.jit
def adopted(w, v, g, POWER: tl.constexpr, WEIGHT: tl.constexpr):
    """v, or the inverse of the threshold of w if w was changed from outside."""
    stored = w.to(v.dtype)
    left = threshold(v, g, POWER).to(WEIGHT).to(v.dtype)
    return tl.where(stored == left, v, inverse(stored, v, g, POWER))


@triton.jit
def thresholded(v, g, POWER: tl.constexpr, WEIGHT: tl.constexpr):
    """T_p(v, g) in the weights' dtype; -0.0 from underflow becomes 0.0."""
    w = threshold(v, g, POWER).to(WEIGHT)
    return tl.where(w == 0, 0.0, w)


@triton.jit
def sgd_direction(
    w, d, m_at, offsets, inside, decay, momentum,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DECAY: tl.constexpr, STATE: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """The direction of torch.optim.SGD with the same rounding; the momentum is updated."""
    if DECAY:
        d = tl.fma(decay, w.to(STATE), d)
    if MOMENTUM:
        m = load(m_at, offsets, inside, STATE, WHOLE)
        m = m * momentum + d
        store(m_at, offsets, inside, m, STATE, WHOLE)
        if NESTEROV:
            d = tl.fma(momentum, m, d)
        else:
            d = m
    return d


@triton.jit
def adam_direction(
    d, m_at, s_at, offsets, inside, momentum, second, fresh, eps, correction,
    STATE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The direction of torch.optim.AdamW with the same rounding; the moments are updated."""
    m = load(m_at, offsets, inside, STATE, WHOLE)
    m = tl.where(momentum < 0.5, tl.fma(momentum, d - m, m), tl.fma(momentum - 1.0, d - m, d))
    store(m_at, offsets, inside, m, STATE, WHOLE)
    s = load(s_at, offsets, inside, STATE, WHOLE)
    s = tl.fma(fresh, d * d, s * second)
    store(s_at, offsets, inside, s, STATE, WHOLE)
    if tl.float32 == STATE:
        ratio = tl.div_rn(m, tl.sqrt_rn(s) * correction + eps)
    else:
        ratio = m / (tl.sqrt(s) * correction + eps)
    return ratio


@triton.jit
def step_block(
    w_at, v_at, m_at, s_at, grad_at, offsets, inside,
    lr, g, g_before, decay, kept, momentum, second, fresh, eps, size, correction,
    RULE: tl.constexpr, POWER: tl.constexpr, SPARSE: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, DECAY: tl.constexpr, MAXIMIZE: tl.constexpr, WEIGHT: tl.constexpr,
    GRAD: tl.constexpr, STATE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Update v (or w, without v), then w = T_p(v, g); without a rule v does not change."""
    if RULE == "NoneType":
        v = load(v_at, offsets, inside, STATE, WHOLE)
        store(w_at, offsets, inside, thresholded(v, g, POWER, WEIGHT), WEIGHT, WHOLE)
    else:
        w = load(w_at, offsets, inside, WEIGHT, WHOLE)
        d = load(grad_at, offsets, inside, GRAD, WHOLE).to(STATE)
        if MAXIMIZE:
            d = -d
        if RULE == "Adam":
            rate = size
            d = adam_direction(
                d, m_at, s_at, offsets, inside, momentum, second, fresh, eps, correction,
                STATE, WHOLE,
            )  # fmt: skip
        else:
            rate = lr
            d = sgd_direction(
                w, d, m_at, offsets, inside, decay, momentum,
                MOMENTUM, NESTEROV, DECAY, STATE, WHOLE,
            )  # fmt: skip
        DECOUPLED: tl.constexpr = DECAY and RULE == "Adam"
        if SPARSE:
            v = adopted(w, load(v_at, offsets, inside, STATE, WHOLE), g_before, POWER, WEIGHT)
            if DECOUPLED:
                v = tl.fma(-lr * decay, w.to(STATE), v)
            v = tl.fma(-rate, d, v)
            store(v_at, offsets, inside, v, STATE, WHOLE)
            store(w_at, offsets, inside, thresholded(v, g, POWER, WEIGHT), WEIGHT, WHOLE)
        else:
            w = w.to(STATE)
            if DECOUPLED:
                w = (w * kept).to(WEIGHT).to(STATE)
            store(w_at, offsets, inside, tl.fma(-rate, d, w), WEIGHT, WHOLE)


@triton.jit
def step(
    rows, grads, blocks, scalars, levels, levels_before,
    lr: tl.float64, g: tl.float64, g_before: tl.float64, size: tl.float64, correction: tl.float64,
    decay: tl.float64, momentum: tl.float64, second: tl.float64, eps: tl.float64,
    RULE: tl.constexpr, POWER: tl.constexpr, SPARSE: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, DECAY: tl.constexpr, MAXIMIZE: tl.constexpr, WEIGHT: tl.constexpr,
    GRAD: tl.constexpr, STATE: tl.constexpr, ON_DEVICE: tl.constexpr, OWN: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One step of all rows by the rule of a name: "Gradient", "Adam" or "NoneType".

    With ``OWN``, every row has thresholds of its own.
    """
    block = tl.program_id(0)
    row = tl.load(blocks + 2 * block).to(tl.int64)
    start = tl.load(blocks + 2 * block + 1).to(tl.int64) * BLOCK
    entry = rows + row * COLUMNS
    w_at, v_at = tl.load(entry), tl.load(entry + 1)
    m_at, s_at = tl.load(entry + 2), tl.load(entry + 3)
    numel = tl.load(entry + 4)
    grad_at = tl.load(grads + row)
    # differences of scalars are rounded once, like Python numbers in torch.optim
    kept = (1.0 - scalar(scalars, 0, lr, tl.float64, ON_DEVICE) * decay).to(STATE)
    fresh = tl.full((), 1.0 - second, STATE)
    lr = scalar(scalars, 0, lr, STATE, ON_DEVICE)
    if OWN:
        g = tl.load(levels + row).to(STATE)
        g_before = tl.load(levels_before + row).to(STATE)
    else:
        g = scalar(scalars, 1, g, STATE, ON_DEVICE)
        g_before = scalar(scalars, 2, g_before, STATE, ON_DEVICE)
    size = scalar(scalars, 3, size, STATE, ON_DEVICE)
    # torch divides by a scalar by multiplying with its inverse, which is computed in float64
    correction = (1.0 / scalar(scalars, 4, correction, tl.float64, ON_DEVICE)).to(STATE)
    decay, eps = tl.full((), decay, STATE), tl.full((), eps, STATE)
    momentum, second = tl.full((), momentum, STATE), tl.full((), second, STATE)
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < numel
    aligned = ((w_at | v_at | m_at | s_at | grad_at) & 15) == 0
    if aligned & (start + BLOCK <= numel):
        step_block(
            w_at, v_at, m_at, s_at, grad_at, offsets, inside,
            lr, g, g_before, decay, kept, momentum, second, fresh, eps, size, correction,
            RULE, POWER, SPARSE, MOMENTUM, NESTEROV, DECAY, MAXIMIZE, WEIGHT, GRAD, STATE, True,
        )  # fmt: skip
    else:
        step_block(
            w_at, v_at, m_at, s_at, grad_at, offsets, inside,
            lr, g, g_before, decay, kept, momentum, second, fresh, eps, size, correction,
            RULE, POWER, SPARSE, MOMENTUM, NESTEROV, DECAY, MAXIMIZE, WEIGHT, GRAD, STATE, False,
        )  # fmt: skip
