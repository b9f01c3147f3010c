"""What trunks need to know from the settings; picklable, imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from trunkline.desk.door import House


@dataclass(frozen=True)
class TrunkOptions:
    """Where the files are, where LiveKit is, and the secrets that files and providers name."""

    folder: Path = Path("sip")
    """Holds ``trunks/*.yaml`` and ``rules/*.yaml``."""
    livekit_url: str | None = None
    """LIVEKIT_URL: ws, wss, http or https."""
    livekit_api_key: str | None = None
    livekit_api_secret: str | None = field(default=None, repr=False)
    sip_host: str | None = None
    """Public name or address of livekit-sip, as a provider must call it; a port may follow a colon."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The process's environment over ``.env``: trunk files name their secrets by variables of it."""
    house: House = field(default_factory=House)
    """What holds for every number here; ``route`` tells of it."""
    patience: timedelta = timedelta(seconds=10)
    """Of one request to LiveKit or to a provider."""
    worker_patience: timedelta = timedelta(seconds=7)
    """How long a worker may take to show that it is there; see kit.livekit.LiveKit.answers."""
