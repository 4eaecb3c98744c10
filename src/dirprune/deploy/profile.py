"""The time of every layer of a network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer.

    Attributes:
        path: Module that it came from; empty for copying the input and the output.
        op: Operator after folding: an activation or a sum may be part of the layer before.
        kernel: How it is computed: rows x columns of vectors in a tile, tiles in a region, input
            channels in a block.
        sparsity: Zeros / entries of its weight; None without a weight.
        milliseconds: For the whole batch.
        gflops: Useful GFLOP/s: two operations for each nonzero weight at each pixel; None without
            a weight.
        share: Share of the network's time, from 0 to 1.
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
    """The times of all layers; ``str()`` is a table.

    Attributes:
        layers: In the order of computation.
        batch: Images in the batch.
        threads: Number of threads.
        isa: Instruction set in use.
    """

    layers: tuple[LayerTime, ...]
    batch: int
    threads: int
    isa: str

    @property
    def milliseconds(self) -> float:
        """Milliseconds of all layers together."""
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
