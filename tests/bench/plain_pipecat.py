# mypy: ignore-errors
"""Baseline B: pipecat's pipeline, put together as its own guides do, one process for each session.

Runs in a Python of its own, with pipecat and nothing of this project (``tests.bench.beside`` makes it).
Its one argument is JSON: url, api_key, api_secret (LiveKit's), room, sandbox (a port), instructions,
notes (a file for what it remembers of the call), best. With ``best`` it has what the documentation offers
against latency: text goes to the voice token by token, a turn ends by the recogniser's final words and a
short timeout, smaller pieces of audio go out. Prints ``ready`` once it is in the room.
"""

import asyncio
import json
import sys

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.livekit import generate_token_with_agent
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.tts_service import TextAggregationMode
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner


async def main(told):
    """One call."""
    root, key, best = f"127.0.0.1:{told['sandbox']}", "sandbox", told["best"]
    token = generate_token_with_agent(told["room"], "agent", told["api_key"], told["api_secret"])
    params = LiveKitParams(audio_in_enabled=True, audio_out_enabled=True)
    turns, spoken = LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()), {}
    if best:
        params.audio_out_10ms_chunks = 2
        stop = [SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.2)]
        turns.user_turn_strategies = UserTurnStrategies(stop=stop)
        spoken = {"text_aggregation_mode": TextAggregationMode.TOKEN, "max_buffer_delay_ms": 100}
    transport = LiveKitTransport(told["url"], token, told["room"], params)
    stt = DeepgramSTTService(api_key=key, base_url=f"ws://{root}/deepgram")
    llm = OpenAILLMService(api_key=key, base_url=f"http://{root}/openai/v1")
    voice = CartesiaTTSService.Settings(voice="694f9389-aac1-45b6-b726-9d9369183238")
    url = f"ws://{root}/cartesia/tts/websocket"
    tts = CartesiaTTSService(api_key=key, url=url, settings=voice, **spoken)
    context = LLMContext([{"role": "system", "content": told["instructions"]}])
    user, assistant = LLMContextAggregatorPair(context, user_params=turns)
    parts = [transport.input(), stt, user, llm, tts, transport.output(), assistant]
    worker = PipelineWorker(Pipeline(parts))

    @transport.event_handler("on_connected")
    async def connected(transport):
        print("ready 0", flush=True)

    @transport.event_handler("on_first_participant_joined")
    async def joined(transport, participant):
        await worker.queue_frame(TTSSpeakFrame("Hello, this is Harbor Fiber. How can I help you?"))

    @transport.event_handler("on_participant_left")
    async def left(transport, participant, reason):
        with open(told["notes"], "w", encoding="utf-8") as notes:  # noqa: ASYNC230 - the call is over
            json.dump(context.get_messages(), notes)
        await worker.cancel()

    runner = WorkerRunner(handle_sigterm=True)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    logger.remove()
    asyncio.run(main(json.loads(sys.argv[1])))
