"""The house rules on structure, each with its reason and its way out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "trunkline"

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "__main__",
        "cli",
        "sandbox",
        "doctor",
        "settings",
        "agent web courier dialer guardian listen trunks",
        "desk",
        "calls crm webhooks profiles access",
        "outbox",
        "events errors",
        "kit",
    )
)
"""From the top down, as design and README draw it; names in one set do not know each other."""

TOP = frozenset(
    {"pyproject.toml", "platform", "migrations", "sip", "tests", "infra", "README.md"}
    | {"uv.lock", "LICENSE", "NOTICE"}
)

ONLY_IN = {
    "fastapi": ("web/",),
    "livekit": (
        "agent/",
        "kit/livekit.py",
        "sandbox/loopback.py",
        "sandbox/callers.py",
        "sandbox/sip.py",
        "sandbox/sip_api.py",
        "sandbox/sip_leg.py",
        "sandbox/phones.py",
        "web/routes/livekit.py",
    ),
    "pocketsphinx": ("sandbox/ears.py",),
    "espeakng_loader": ("sandbox/voice.py",),
}
"""Library → the rooms that may import it: what is heavy, licensed apart or to be swapped as one."""


def modules() -> Iterator[Path]:
    return PACKAGE.rglob("*.py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names that *path* imports, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            # ``from trunkline import events`` names a module of the package.
            base = node.module
            if base == "trunkline":
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield base, node.lineno


def layer_of(room: str) -> int:
    for level, rooms in enumerate(LAYERS):
        if room in rooms:
            return level
    raise AssertionError(
        f"{room} is in no layer: put it into LAYERS, README and the decisions, or into a room there is"
    )


def test_imports_only_point_down() -> None:
    """Each import goes to a strictly lower layer or stays in its room.

    Otherwise a domain cannot be read, tested or replaced alone. Way out: move the code to the
    layer that knows both sides, which is ``desk`` for two domains.
    """
    wrong = []
    for path in modules():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name, line in imported(path):
            parts = name.split(".")
            if parts[0] != "trunkline" or len(parts) < 2 or parts[1] == room:
                continue
            if layer_of(parts[1]) <= layer_of(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} → {parts[1]}")
    assert not wrong, "imports that do not point down:\n" + "\n".join(wrong)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    """A heavy or swappable library is imported in few places only. Way out: call the room that has it."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules()
        for name, line in imported(path)
        if name.split(".")[0] == library
        and not str(path.relative_to(PACKAGE)).startswith(ONLY_IN[library])
    ]
    assert not wrong, f"{library} is imported outside {ONLY_IN[library]}:\n" + "\n".join(wrong)


def test_time_is_an_argument() -> None:
    """Only kit/clock.py reads the time of day, so that every rule about time can be tested.

    Way out: take ``now`` as an argument, or a ``Clock`` at an edge.
    """
    wrong = []
    for path in modules():
        if path == PACKAGE / "kit" / "clock.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("now", "utcnow", "today")
                and isinstance(node.value, ast.Name)
                and node.value.id in ("datetime", "date")
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "the time of day is read in:\n" + "\n".join(wrong)


def test_init_files_are_empty() -> None:
    """Importing a room costs nothing: livekit.agents alone takes seconds, and --help must not.

    Way out: import from the module that holds the name.
    """
    full = [p for p in PACKAGE.rglob("__init__.py") if p.read_text(encoding="utf-8").strip()]
    assert not full
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the stdlib's platform"


def test_the_top_level_is_as_designed() -> None:
    """A newcomer finds ten things at the top, each explained in the README. Way out: a decision."""
    from subprocess import run

    listed = run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_tests_do_not_sleep_to_wait() -> None:
    """A test that sleeps is slow on a fast machine and wrong on a slow one.

    Way out: wait for the event itself, with a bound. ``asyncio.sleep(0)`` only yields.
    """
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        if "bench" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and (node.func.value.id, node.func.attr)
                in {("time", "sleep"), ("asyncio", "sleep")}
                and not (
                    node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
                )
            ):
                source = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
                if "# pace:" not in source:  # real time that passes in the thing under test
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "tests that sleep:\n" + "\n".join(wrong)
