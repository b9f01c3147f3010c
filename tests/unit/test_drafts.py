"""Which interim transcripts an answer is begun on."""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from livekit.agents import stt

from trunkline.agent.drafts import QUIET_MS, Drafts

KIND = stt.SpeechEventType
FRAME_MS = 20
VOICE = (np.sin(np.arange(160) / 3) * 6000).astype("<i2").tobytes()
NOISE = (np.sin(np.arange(160) / 3) * 300).astype("<i2").tobytes()
SILENCE = bytes(320)


def heard(drafts: Drafts, pcm: bytes, ms: int) -> None:
    for _ in range(ms // FRAME_MS):
        drafts.hear(pcm, FRAME_MS)


async def marked(
    drafts: Drafts, text: str, kind: stt.SpeechEventType = KIND.INTERIM_TRANSCRIPT
) -> bool:
    """Whether *text*, recognised now, is worth a draft."""

    async def one() -> AsyncIterator[stt.SpeechEvent]:
        yield stt.SpeechEvent(type=kind, alternatives=[stt.SpeechData(language="en", text=text)])  # type: ignore[arg-type]

    (event,) = [event async for event in drafts.begin(one())]
    return event.type is KIND.PREFLIGHT_TRANSCRIPT


@pytest.mark.parametrize("pause", [SILENCE, NOISE])
async def test_an_answer_is_begun_when_the_caller_pauses(pause: bytes) -> None:
    """Not while they speak, not at a stop within a word; once for the same words; noise is no voice."""
    drafts = Drafts()
    heard(drafts, VOICE, 600)
    assert not await marked(drafts, "what are")
    heard(drafts, pause, 80)
    assert not await marked(drafts, "what are your")
    heard(drafts, pause, QUIET_MS - 80)
    assert await marked(drafts, "what are your hours")
    assert not await marked(drafts, "what are your hours")
    heard(drafts, VOICE, 200)
    heard(drafts, pause, QUIET_MS)
    assert await marked(drafts, "what are your hours tomorrow")


async def test_final_words_are_left_alone() -> None:
    """They stay final, and the same words said again are worth a draft again."""
    drafts = Drafts()
    heard(drafts, VOICE, 200)
    heard(drafts, SILENCE, QUIET_MS)
    assert await marked(drafts, "hello")
    assert not await marked(drafts, "hello", KIND.FINAL_TRANSCRIPT)
    assert not await marked(drafts, "")
    assert await marked(drafts, "hello")
