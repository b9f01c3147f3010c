"""The pages' bundle belongs to the sources in this checkout."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "platform/trunkline/web/dashboard/assets"


def frontend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("frontend", ROOT / "infra" / "frontend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundle_is_of_these_sources() -> None:
    """A script or style that was changed has been bundled. Way out: `uv sync`, or the command below."""
    build = frontend()
    assert build.built() == build.sources(), (
        "the bundle is stale: run `uv run python infra/frontend.py build`"
    )


def test_the_bundle_notices_every_change(tmp_path: Path) -> None:
    """Another byte in any source, a new file or another lock file makes the bundle stale."""
    build = frontend()
    assets = tmp_path / build.ASSETS
    (assets / "src" / "lib").mkdir(parents=True)
    seen = set()
    for name, content in (
        ("src/page.ts", "1"),
        ("src/page.ts", "2"),
        ("src/lib/more.ts", "2"),
        ("package-lock.json", "{}"),
        ("build.mjs", "//"),
    ):
        (assets / name).write_text(content)
        seen.add(build.sources(tmp_path))
    assert len(seen) == 5


def test_the_lock_names_no_other_registry() -> None:
    """Packages come from whatever registry npm is set to; a lock that names one names npm's own."""
    lock = json.loads((ASSETS / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
            address = package.get("resolved", "https://registry.npmjs.org/")
            assert address.startswith("https://registry.npmjs.org/"), name
