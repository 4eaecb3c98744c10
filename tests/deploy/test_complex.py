"""Complex numbers and Fourier transforms, through save and the engine, against torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.test_coverage import Written, made, outputs
from dirprune.deploy import Engine, capture, export_onnx, save, shrink


def spectral_filter(m: Any, x: Tensor) -> Tensor:
    y = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * m.filter
    return m.out(torch.fft.irfft2(y, s=x.shape[1:3], dim=(1, 2), norm="ortho"))


def mixed_tokens(m: Any, x: Tensor) -> Tensor:
    y = torch.fft.fftn(x, dim=(1, 2)).real + torch.fft.fft(torch.fft.fft(x), dim=1).imag
    windows = x.reshape(-1, 3, 4)  # merged with the batch
    turned = torch.fft.fft(x.transpose(0, 1), dim=0).real.transpose(0, 1)
    return m.out(y) + torch.fft.ifft2(windows).real.reshape(x.shape) + turned


def long_convolution(m: Any, x: Tensor) -> Tensor:
    size = 2 * x.shape[-1]
    y = torch.fft.rfft(x, n=size) * torch.fft.rfft(m.kernel, n=size)
    return torch.fft.irfft(y, n=size)[..., : x.shape[-1]]


def few_frequencies(m: Any, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    y = torch.fft.rfft2(x)
    kept = torch.zeros(x.shape[0], 2, height, width // 2 + 1, dtype=torch.cfloat)
    kept[:, :, :2, :3] = torch.einsum("bihw,iohw->bohw", y[:, :, :2, :3], m.low)
    kept[:, :, -2:, :3] = torch.einsum("bihw,iohw->bohw", y[:, :, -2:, :3], m.high)
    kept[:, :, m.places, -1] = y[:, :2, m.places, -1]
    return torch.fft.irfft2(kept, s=(height, width))


def sound(m: Any, x: Tensor) -> Tensor:
    y = torch.stft(x, 16, 4, window=m.window, return_complex=True)
    power = y.abs().square().flatten(1)
    back = torch.istft(y * m.gain[:, None], 16, 4, window=m.window, length=x.shape[1])
    return torch.cat([power, back], 1)


def arithmetic(m: Any, x: Tensor) -> Tensor:
    y = torch.complex(x[:, :4], x[:, 4:])
    z = (y + 2j) / (m.weight[0, :4] - y / 2 + 3) * (1 + 2j) - 1 / (y + 4) + y.conj() - x[:, :4]
    z = z * y.abs().add(0.1).log() + torch.exp(0.5j * y.angle()) - y.reciprocal().mean(1, True)
    first, second = F.linear(z, m.weight, m.bias).chunk(2, 1)
    z = torch.cat([first.flip(1), torch.where(second.abs() > 1, second, 0 * second), y], 1)
    return torch.view_as_real(z.roll(1, 1).cumsum(1)).flatten(1)


def functions(m: Any, x: Tensor) -> Tensor:
    z = torch.complex(x[:, :4], x[:, 4:])
    away = z + 3 * torch.ones_like(z)
    y = z.square() + z**3.0 + away**-2 + away.log() + z.sqrt() - F.dropout(m.gate, 0.0, True)
    y = y + z**0 + z**0.5 + away**-2.5 + 2**z + (0.3 * away) ** x[:, :4] + x[:, 4:] ** (2 + 1j)
    zeros = torch.zeros_like(z, dtype=torch.float32)  # real, although z is complex
    return torch.view_as_real(y).flatten(1) + x.view_as(torch.view_as_real(z).flatten(1)) * (
        x[:, :1].expand_as(z) + zeros
    ).sum(1, keepdim=True)


def rotated(m: Any, x: Tensor) -> Tensor:
    z = torch.complex(x[..., :3], x[..., 3:]) * m.codes[: x.shape[1]]
    turns = m.codes[0].expand(x.shape[1], 3).imag + m.codes[: x.shape[1]].abs()
    return torch.cat([z.real + turns, z.imag], -1)


def complex_parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=torch.cfloat))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "spectral filter": (
        lambda: Written(spectral_filter, filter=complex_parameter(6, 3, 4), out=nn.Linear(4, 3)),
        (6, 5, 4),
    ),
    "mixed tokens": (lambda: Written(mixed_tokens, out=nn.Linear(4, 4)), (6, 4)),
    "short convolution": (
        lambda: Written(long_convolution, kernel=nn.Parameter(torch.randn(2, 7))), (2, 7)
    ),
    "long convolution": (
        lambda: Written(long_convolution, kernel=nn.Parameter(torch.randn(2, 315))), (2, 315)
    ),
    "few frequencies": (
        lambda: Written(few_frequencies, low=complex_parameter(3, 2, 2, 3),
                        high=complex_parameter(3, 2, 2, 3),
                        places=nn.Buffer(torch.tensor([4, 2]))), (3, 6, 7)
    ),
    "sound": (
        lambda: Written(sound, window=nn.Buffer(torch.hann_window(16)),
                        gain=nn.Parameter(torch.rand(9))), (48,)
    ),
    "functions": (lambda: Written(functions, gate=nn.Parameter(torch.randn(4))), (8,)),
    "arithmetic": (
        lambda: Written(arithmetic, weight=complex_parameter(6, 4), bias=complex_parameter(6)),
        (8,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_complex_networks(name: str, tmp_path: Path) -> None:
    model, example, x = made(CASES[name], batch=5)
    expected, found, net = outputs(model, example, x, tmp_path / "m.dpz")
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=2e-6 * scale)
    small = shrink(net, example)(x)
    torch.testing.assert_close(small, expected.float(), rtol=1e-4, atol=2e-6 * scale)


@torch.no_grad()
def test_codes_of_as_many_places_as_the_input_has(tmp_path: Path) -> None:
    codes = torch.polar(torch.ones(9, 3), torch.outer(torch.arange(9.0), torch.rand(3)))
    model = Written(rotated, codes=nn.Buffer(codes))
    save(model, tmp_path / "m.dpz", torch.randn(2, 6, 6), dynamic={0: {1: (2, 9)}})
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for length in (2, 9):
        x = torch.randn(3, length, 6)
        torch.testing.assert_close(torch.from_numpy(engine(x.numpy())), model(x))


@torch.no_grad()
def test_onnx_has_the_same_transforms(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    make, shape = CASES["spectral filter"]
    assert (
        export_onnx(make().eval(), tmp_path / "m.onnx", torch.randn(2, *shape)).difference < 1e-4
    )


def test_layers_share_the_matrices_of_a_transform() -> None:
    graph = capture(
        Written(lambda m, x: torch.fft.fft(torch.fft.fft(x, dim=1).real, dim=1).real),
        torch.ones(2, 8, 3),
    )
    assert [tensor.shape for tensor in graph.tensors.values()] == [(8, 8)]  # cosines only


@pytest.mark.parametrize(
    ("function", "dynamic", "message"),
    [
        (
            lambda m, x: torch.fft.rfft(x),
            None,
            "_fft_r2c.*returns complex numbers: return torch.v",
        ),
        (lambda m, x: torch.fft.fft(x, dim=0).real, None, "it works along the batch"),
        (lambda m, x: torch.fft.fft(x, n=4099).real, None, "4099 values, which is a prime number"),
        (
            lambda m, x: torch.fft.fft(x).real,
            {"x": {1: (4, 9)}},
            "its size varies: leave the size",
        ),
        (lambda m, x: (x, m.codes), None, "returns complex numbers: return torch.v"),
        (lambda m, x: x.eq(m.codes).float(), None, "with the real and the imaginary part"),
        (lambda m, x: torch.fft.fft(x).tanh().real, None, "with the real and the imaginary part"),
    ],
)
def test_refusals(function: Callable[..., Any], dynamic: Any, message: str) -> None:
    class One(Written):
        def forward(self, x: Tensor) -> Any:
            return self.function(self, x)

    codes = nn.Buffer(torch.ones(6, dtype=torch.cfloat))
    with pytest.raises(ValueError, match=message):
        capture(One(function, codes=codes), torch.ones(2, 6), dynamic=dynamic)
