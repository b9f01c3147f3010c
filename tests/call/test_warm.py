"""What is loaded before a call comes does not come up again while it is on."""

import gc

from trunkline.agent.warm import warm


async def test_what_stays_loaded_is_never_walked_again() -> None:
    """After warming, the collector leaves the imported modules' objects alone: no pause in the audio."""
    try:
        await warm()
        assert gc.get_freeze_count() > 100_000
        assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    finally:
        gc.unfreeze()
