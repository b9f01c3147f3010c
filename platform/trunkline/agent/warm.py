"""Load, before a call comes, whatever the first call would otherwise wait for."""

import asyncio
import contextlib
import gc

import openai
import openai.resources.chat.completions.completions
import openai.types.chat
from livekit import rtc
from livekit.agents import inference
from livekit.agents.utils import http_context

from trunkline.agent.models.plugins import STT_RATE_HZ

_FRAME = STT_RATE_HZ // 50


async def warm() -> None:
    """Load the voice-activity and end-of-turn models and run each once on a second of silence."""
    vad = inference.VAD(model="silero").stream()
    turns = inference.TurnDetector(version="v1-mini").stream()
    async with http_context.open():  # builds the TLS context, which each process keeps
        for _ in range(50):
            frame = rtc.AudioFrame.create(STT_RATE_HZ, 1, _FRAME)
            vad.push_frame(frame)
            turns.push_audio(frame)
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(5):
                await turns.predict()
    await vad.aclose()
    await turns.aclose()
    # The language model's HTTP client loads its network backend with its first connection.
    async with openai.AsyncClient(
        api_key="none", base_url="http://127.0.0.1:9", max_retries=0
    ) as ai:
        with contextlib.suppress(openai.APIError):
            await ai.models.list(timeout=2)
    # Some 280,000 objects of imported modules live as long as the process; walking them again and again
    # held up the audio for 140 ms (measured) each time the collector looked at all generations.
    gc.collect()
    gc.freeze()
