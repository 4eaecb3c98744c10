"""Where the time of a network goes, layer by layer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """What one layer takes.

    Attributes:
        path: Module that it came from; empty for copying the input and the output.
        op: Operator, lowered: an activation or a sum may be part of the layer before.
        kernel: How it is computed: rows x columns of vectors in a tile, tiles in a region, input
            channels at a time.
        sparsity: Zeros / entries of its weight; None if it has none.
        milliseconds: For the whole batch.
        gflops: Useful GFLOP/s, two for each weight that is not zero at each pixel; None without a
            weight.
        share: Of the time of the network, from 0 to 1.
    """

    path: str
    op: str
    kernel: str
    sparsity: float | None
    milliseconds: float
    gflops: float | None
    share: float


@dataclass(frozen=True)
class Profile:
    """What every layer takes; ``str()`` is a table.

    Attributes:
        layers: In the order in which they run.
        batch: Images in the batch.
        threads: That computed it.
        isa: Instruction set in use.
    """

    layers: tuple[LayerTime, ...]
    batch: int
    threads: int
    isa: str

    @property
    def milliseconds(self) -> float:
        """Of all layers together."""
        return sum(layer.milliseconds for layer in self.layers)

    def __str__(self) -> str:
        rows = [
            (
                layer.path,
                layer.op,
                layer.kernel,
                "" if layer.sparsity is None else f"{layer.sparsity:.1%}",
                f"{layer.milliseconds:.3f}",
                "" if layer.gflops is None else f"{layer.gflops:.1f}",
                f"{layer.share:.1%}",
            )
            for layer in self.layers
            if layer.milliseconds > 0
        ]
        head = ("layer", "operator", "kernel", "zeros", "ms", "GFLOP/s", "share")
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in (head, *rows)
        ]
        total = (
            f"{self.milliseconds:.3f} ms for a batch of {self.batch} "
            f"on {self.threads} thread{'s' if self.threads > 1 else ''} with {self.isa}"
        )
        return "\n".join([*lines, total])
