"""Imported once, before any call, by the process that every job process is forked from.

What stands here is inherited as it is, so it may neither start a thread nor open a connection.
"""

import importlib

from trunkline.agent.models import plugins
from trunkline.agent.music import hold_music

for name in ("trunkline.agent.server", "sqlalchemy.dialects.sqlite.aiosqlite"):
    importlib.import_module(name)
plugins.tls()
hold_music()
