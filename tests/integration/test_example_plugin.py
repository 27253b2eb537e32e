"""The example of docs/plugins.md, built, installed beside the service and discovered by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "example_plugin"

RENDER = """
import json
from datetime import UTC, datetime
from nx_signal.activities.content import Renderer
from nx_signal.activities.loader import discover
from nx_signal.model import Activity

def activity(left):
    data = {"item": {"name": "Green tea", "price": 45000}, "left": left}
    time = datetime(2026, 1, 1, 10, tzinfo=UTC)
    return Activity("e", "STOCK_LOW", "org", "a", {}, "o", None, (), data, None, time)

renderer = Renderer(discover(), "Asia/Ho_Chi_Minh")
texts = [renderer.render(activity(left), locale).content for left in (0, 1, 3) for locale in ("en", "vi")]
print(json.dumps([" ".join(text.split()) for text in texts]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed from its wheel."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source")  # a build writes into its source
    site, wheels = folder / "site", folder / "wheels"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    no_downloads = ("--no-index", "--no-deps")
    succeed(
        site, *pip, "wheel", *no_downloads, "--no-build-isolation", "--wheel-dir", str(wheels), str(source)
    )
    (wheel,) = wheels.iterdir()
    succeed(site, *pip, "install", *no_downloads, "--target", str(site), str(wheel))
    return site


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment
    )


def succeed(site: Path, *arguments: str) -> str:
    result = python(site, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_example_is_discovered_and_rendered_in_both_languages(site: Path) -> None:
    assert json.loads(succeed(site, "-c", RENDER)) == [
        "Green tea is sold out since Jan 1, 2026, 5:00 PM",
        "Green tea đã hết hàng từ 17:00 1 thg 1, 2026",
        "The last Green tea (₫45,000) is left",
        "Chỉ còn 1 Green tea (45.000 ₫)",
        "Only 3 of Green tea (₫45,000) are left",
        "Chỉ còn 3 Green tea (45.000 ₫)",
    ]


def test_the_tests_of_the_example_pass(site: Path) -> None:
    assert "1 passed" in succeed(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"))


def test_a_mistake_in_a_package_ends_the_server_with_status_2_and_a_sentence(
    site: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(site, tmp_path / "site")
    module = broken / "acme_stock" / "__init__.py"
    module.write_text(module.read_text("utf-8").replace(', "when": activity.occurred_at', ""), "utf-8")
    result = python(broken, "-m", "nx_signal", "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 2
    assert (
        "The event type acme_stock:StockLow of the package acme-stock 1.0.0 cannot be used: STOCK_LOW: "
        "example 3: stock_low.gone is not given its placeholder when; add the value in message_arguments."
    ) in result.stderr
