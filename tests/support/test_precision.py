"""Global precision flags do not affect computations in true float32, and are restored."""

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from dirprune._support.precision import true_float32

BACKENDS = torch.backends
SETTINGS = (
    *(BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn),
    *(BACKENDS.mkldnn, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn),
)


def precisions() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.fixture(params=["default", "tf32", "high", "medium", "bf16", "conv"])
def flags(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set a global flag with each of torch's interfaces."""
    match request.param:
        case "tf32" | "bf16":
            BACKENDS.fp32_precision = request.param
        case "high" | "medium":
            torch.set_float32_matmul_precision(request.param)
        case "conv":
            BACKENDS.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.fp32_precision = "none"
    BACKENDS.cuda.matmul.fp32_precision = BACKENDS.mkldnn.matmul.fp32_precision = "none"
    BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cudnn.rnn.fp32_precision = "tf32"


@pytest.mark.usefixtures("flags")
def test_flags_are_off_inside_and_restored() -> None:
    before = precisions()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(KeyError), true_float32():
            inside = precisions()
            raise KeyError
    assert {inside[1], *inside[3:5], *inside[6:]} == {"ieee"}
    assert precisions() == before


def test_the_legacy_interface_round_trips() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with true_float32():
            pass
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("flags")
def test_products_have_all_digits_under_every_flag_and_autocast() -> None:
    x = torch.randn(200, 200)
    exact = x.double() @ x.double()
    with torch.autocast("cpu", dtype=torch.bfloat16), true_float32():
        found = x @ x
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
