"""Hatchling's build hook: whoever installs or packs Trunkline gets the pages' bundle with it."""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Frontend(BuildHookInterface):
    """Runs for wheels, editable or not, and for the source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        root = Path(self.root)
        # This file is loaded by its path: its neighbour is no module of anything.
        spec = importlib.util.spec_from_file_location("frontend", root / "infra" / "frontend.py")
        assert spec is not None and spec.loader is not None  # noqa: PT018
        frontend = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(frontend)
        frontend.build(root)
