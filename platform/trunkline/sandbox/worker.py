"""The worker as the sandbox runs it: the product's own, its providers the sandbox's, as a process of its own.

Reads its orders from one JSON argument and prints ``ready <port of /ready>`` once LiveKit knows it.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta

from trunkline.agent import server
from trunkline.agent.options import WorkerOptions
from trunkline.kit import log
from trunkline.kit.blobs import BlobOptions
from trunkline.kit.db import DatabaseOptions
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import die_with_parent
from trunkline.sandbox.callers import WORD_AFTER, sandbox_providers


@dataclass(frozen=True)
class WorkerOrders:
    """What the process is told."""

    livekit_url: str
    livekit_key: str
    livekit_secret: str = field(repr=False)
    database_url: str = ""
    blobs_url: str = ""
    sandbox_port: int = 0
    sandbox_key: str = "sandbox"
    capacity: int = 6
    overflow: int = 24
    warm: int = 2
    tool_delays_ms: Mapping[str, int] = field(default_factory=dict)
    word_after_ms: int | None = round(WORD_AFTER.total_seconds() * 1000)
    log_level: str = "warning"

    def dump(self) -> str:
        """As the one argument of this module's process."""
        return json.dumps(asdict(self))

    def options(self) -> WorkerOptions:
        """The worker's."""
        delays = {name: timedelta(milliseconds=ms) for name, ms in self.tool_delays_ms.items()}
        agent = sandbox_providers(self.sandbox_port, self.sandbox_key)
        late = self.word_after_ms
        return WorkerOptions(
            livekit=LiveKitOptions(self.livekit_url, self.livekit_key, self.livekit_secret),
            database=DatabaseOptions(self.database_url),
            blobs=BlobOptions(self.blobs_url),
            agent=replace(
                agent,
                tool_delays=delays,
                word_after=None if late is None else timedelta(milliseconds=late),
            ),
            capacity=self.capacity,
            overflow=self.overflow,
            warm=self.warm,
            port=0,
            drain=timedelta(seconds=60),
            log_level=self.log_level,
        )


def main(arguments: Sequence[str]) -> int:
    """Entry of the process. Returns the exit code."""
    die_with_parent()
    orders = WorkerOrders(**json.loads(arguments[0]))
    log.configure("console", orders.log_level)

    def ready(port: int) -> None:
        print(f"ready {port}", flush=True)  # noqa: T201 - standard output is how the parent hears of it

    asyncio.run(server.run(orders.options(), ready))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
