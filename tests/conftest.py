"""Common set-up: every test starts from the same random state."""

import signal

import hypothesis
import pytest
import torch

# The time of an example depends on the other load of the machine.
hypothesis.settings.register_profile("dirprune", deadline=None)
hypothesis.settings.load_profile("dirprune")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Restore the default handler of SIGINT, which background jobs of a shell ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
