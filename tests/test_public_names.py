"""The public names and their signatures are those of public_names.txt.

python tests/test_public_names.py --write
"""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

LIST = Path(__file__).with_name("public_names.txt")
PACKAGES = ("dirprune", "dirprune.data", "dirprune.models", "dirprune.landscape",
            "dirprune.deploy", "dirprune.bench")  # fmt: skip


def described(value: object) -> str:
    """The parameters of a function or class without types, whose text depends on the version."""
    if not callable(value):
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # a type alias, a protocol
        return ""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.Signature(plain)))


def public_names() -> str:
    found = [
        (package, name, getattr(import_module(package), name))
        for package in PACKAGES
        for name in sorted(set(import_module(package).__all__) - {"__version__"})
    ]
    return "".join(f"{package}.{name}{described(value)}\n" for package, name, value in found)


def test_public_names_and_signatures_are_as_recorded() -> None:
    assert public_names() == LIST.read_text()


if __name__ == "__main__":
    if "--write" in sys.argv:
        LIST.write_text(public_names())
    sys.stdout.write(public_names())
