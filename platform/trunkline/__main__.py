"""``python -m trunkline`` and the command ``trunkline``."""

import sys

from trunkline.kit.processes import die_with_parent


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failed) or 2 (wrong usage)."""
    die_with_parent()
    from trunkline.cli.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
