"""The assembled sandbox server as a process: three providers behind one port, gone without a trace."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import httpx
import openai
import psutil  # type: ignore[import-untyped]
import pytest

from trunkline.kit.processes import Child, spawn
from trunkline.sandbox.server import main

SOON = timedelta(seconds=30)
BOUND_S = SOON.total_seconds()


@dataclass
class Server:
    child: Child
    base: str

    def processes(self) -> list[psutil.Process]:
        """Ears and voice, which the server has started."""
        found: list[psutil.Process] = psutil.Process(self.child.pid).children(recursive=True)
        return found


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Server]:
    child = await spawn("trunkline.sandbox.server", *arguments)
    try:
        yield Server(child, f"http://127.0.0.1:{await child.ready(SOON)}")
    finally:
        await child.stop(timedelta(seconds=5))


async def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=BOUND_S)
    return not alive


async def chat(base: str, key: str) -> str | None:
    async with openai.AsyncOpenAI(
        base_url=f"{base}/openai/v1", api_key=key, max_retries=0, timeout=BOUND_S
    ) as client:
        answer = await client.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content


async def transcribe_nothing(base: str, key: str) -> str:
    """Open a Deepgram stream, close it as a client does, and return what the last message is."""
    url = f"{base}/deepgram/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000"
    headers = {"Authorization": f"Token {key}"}
    kind = ""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
        await ws.send_json({"type": "CloseStream"})
        async with asyncio.timeout(BOUND_S):
            async for message in ws:
                kind = message.json()["type"]
    return kind


async def speak(base: str, key: str) -> httpx.Response:
    body = {
        "model_id": "sonic-3",
        "voice": {"mode": "id", "id": "any"},
        "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
        "language": "en",
        "transcript": "Hello.",
    }
    headers = {"X-API-Key": key, "Cartesia-Version": "2025-04-16"}
    async with httpx.AsyncClient(timeout=BOUND_S) as http:
        return await http.post(f"{base}/cartesia/tts/bytes", json=body, headers=headers)


async def test_one_server_is_all_three_providers() -> None:
    """Once it says ready, hearing, thinking and speaking answer under their paths, and only to the
    key it was given; told to end, it does so with code 0 and takes ears and voice with it."""
    async with running("--key", "secret") as server:
        async with httpx.AsyncClient(timeout=BOUND_S) as http:
            assert (await http.get(f"{server.base}/health")).json() == {"status": "ok"}
        assert await chat(server.base, "secret")
        assert await transcribe_nothing(server.base, "secret") == "Metadata"
        spoken = await speak(server.base, "secret")
        assert (spoken.status_code, len(spoken.content) > 1000) == (200, True)

        with pytest.raises(openai.AuthenticationError):
            await chat(server.base, "sandbox")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await transcribe_nothing(server.base, "sandbox")
        assert refused.value.status == 401
        assert (await speak(server.base, "sandbox")).status_code == 401

        processes = server.processes()
        assert len(processes) >= 2
        await server.child.stop(SOON)
        assert server.child.returncode == 0
        assert await all_gone(processes)


async def test_faults_are_handed_on() -> None:
    """A fault given at the start strikes the provider it names and no other; after kill -9 in the
    middle of it neither ears nor voice is left."""
    async with running("--fault", "tts:429", "--delay", "llm_first_token=0") as server:
        assert (await speak(server.base, "sandbox")).status_code == 429
        assert await chat(server.base, "sandbox")
        processes = server.processes()
        assert len(processes) >= 2
        os.kill(server.child.pid, signal.SIGKILL)
        assert await all_gone(processes)


async def test_chance_is_drawn_for_each_connection() -> None:
    """A fault by chance strikes some requests, on a server started anew with the same seed the same ones, and
    a spread delay is taken besides."""
    told: list[list[int]] = []
    for _ in range(2):
        arguments = ("--fault=llm:500%40", "--delay=llm_first_token=1~0.5,10%:5", "--seed=7")
        async with running("--delay=llm_token=0", *arguments) as server:
            statuses = []
            async with openai.AsyncOpenAI(
                base_url=f"{server.base}/openai/v1", api_key="sandbox", max_retries=0
            ) as client:
                for _ in range(12):
                    try:
                        await client.chat.completions.create(
                            model="gpt-4.1-mini", messages=[{"role": "user", "content": "Hello"}]
                        )
                        statuses.append(200)
                    except openai.InternalServerError:
                        statuses.append(500)
            told.append(statuses)
    assert told[0] == told[1]
    assert set(told[0]) == {200, 500}


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """If the port is taken, the server says so with what to do and ends with code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert f"127.0.0.1:{port} (Address already in use); choose another port" in told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "tts:418"], "'tts:418' is no fault"),
        (["--delay", "llm=5"], "'llm=5' is no delay"),  # no such name
        (["--delay", "llm_token=-5"], "'llm_token=-5' is no delay"),  # time runs forward
        (["--port", "http"], "invalid int value: 'http'"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An argument that makes no sense ends with code 2 and says what is allowed."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err
