"""The processor's name."""

from pathlib import Path

import pytest

from dirprune._support.processor import processor_name


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("cpu family : 6\nmodel : 1\nmodel name : Some CPU\n", "Some CPU (family 6, model 1)"),
        ("processor : 0\nmodel name : ARMv7 Processor rev 4\n", "ARMv7 Processor rev 4"),
    ],
)
def test_the_name_is_read_from_the_system(
    lines: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: lines)
    assert processor_name() == expected
