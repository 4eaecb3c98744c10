"""The tables of the pages agree with the files in results/."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dirprune.train.recipes import get_recipe

RESULTS = Path(__file__).parents[1] / "results"


def test_the_readme_is_up_to_date() -> None:
    script = RESULTS / "readme.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("images_per_second", "published"), [(2470, 14), (938, 36), (1200, 29), (367, 92)]
)
def test_the_hours_of_a_run_agree_with_published_ones(
    images_per_second: float, published: float
) -> None:
    """Ninety epochs on one GPU; the published hours include evaluation."""
    spec = importlib.util.spec_from_file_location("cost", RESULTS / "cost.py")
    assert spec is not None
    assert spec.loader is not None
    cost = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cost)
    assert get_recipe("resnet50_imagenet").epochs == cost.EPOCHS
    ms = cost.BATCH / images_per_second * 1000
    assert 0.9 * published < cost.hours(ms, 1, 1.0, epochs=90) < published
    assert cost.hours(ms, 8, 0.5, epochs=90) == pytest.approx(cost.hours(ms, 1, 1, 90) / 4)
