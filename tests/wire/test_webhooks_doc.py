"""The guide for integrators is true: its tables, its commands, its ways to verify.

Run as a program with ``--write`` it writes the tables anew.
"""

import asyncio
import re
import shlex
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from standardwebhooks import WebhookVerificationError

from trunkline.access import service as access
from trunkline.crm import service as crm
from trunkline.events import CATALOGUE, OPT_IN, SAMPLES, summary
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database
from trunkline.outbox.publish import publish
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks import retry, service, signing
from trunkline.webhooks.options import EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Need

GUIDE = Path(__file__).resolve().parents[2] / "platform" / "docs" / "webhooks.md"
KEYS = ("WkWhWz3kX0gGgCkM4wDRoJrEkXIcrQPpP5cWbqkqW5M=",)
BODY = '{"type":"call.ended","data":{"text":"“☎”"}}'.encode()


def words(length: timedelta) -> str:
    """A wait as people say it."""
    seconds = int(length.total_seconds())
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def tables() -> dict[str, str]:
    """Name of a part of the guide → what must stand in it."""
    numbers = range(1, len(retry.SCHEDULE) + 1)
    waits = [words(wait) for wait in retry.SCHEDULE]
    schedule = [
        f"| after attempt | {' | '.join(map(str, numbers))} |",
        f"| --- |{' --- |' * len(waits)}",
        f"| at most | {' | '.join(waits)} |",
    ]
    rows = [
        f"| `{type_}`{' (opt-in)' if type_ in OPT_IN else ''} | {summary(type_).replace('``', '`')} | "
        f"{', '.join(f'`{name}`' for name in sample_of(type_))} |"
        for type_ in CATALOGUE
    ]
    catalogue = [
        "| event | when, and what its fields mean | `data` |",
        "| --- | --- | --- |",
        *rows,
    ]
    return {"schedule": "\n".join(schedule), "events": "\n".join(catalogue)}


def sample_of(type_: str) -> list[str]:
    """The fields of an event's data."""
    sample = next(each for each in SAMPLES if each.type == type_)
    return [*sample.data(), "seq"]


def part(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", ["schedule", "events"])
def test_the_tables_are_those_of_the_code(name: str) -> None:
    """Way out: python tests/wire/test_webhooks_doc.py --write"""
    found = part(name).search(GUIDE.read_text(encoding="utf-8"))
    assert found
    assert found[2].strip() == tables()[name]


async def test_every_command_of_the_guide_works(
    db: Database, tmp_path: Path, now: datetime
) -> None:
    """Each curl, in order, with the ids that came before, is accepted by the real API."""
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="guide", scopes=list(access.KEY_SCOPES), now=now - timedelta(days=1)
        )
    app = create_app(
        db,
        open_blobs(BlobOptions(str(tmp_path / "blobs"))),
        WebOptions(endpoints=EndpointOptions(KEYS)),
        lambda: now,
    )
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    known = {"TRUNKLINE": "https://trunkline.example", "KEY": token}
    commands = [
        line
        for block in blocks("sh")
        for line in re.split(r"\n(?=curl )", block.strip())
        if line.startswith("curl ")
    ]
    assert len(commands) > 15
    async with httpx.AsyncClient(transport=transport) as client:
        for command in commands:
            if "$CURSOR" in command:
                command = command.replace("wait=30", "wait=0")
            answer = await _run(client, command, known)
            assert answer.is_success, (command, answer.text)
            await _note(db, answer, known, now=now)


async def _run(client: httpx.AsyncClient, command: str, known: dict[str, str]) -> httpx.Response:
    filled = re.sub(r"\$([A-Z]+)", lambda name: known[name[1]], command)
    arguments = iter(shlex.split(filled)[1:])
    method, url, headers, body = "GET", "", {}, None
    for argument in arguments:
        match argument:
            case "-X":
                method = next(arguments)
            case "-H":
                name, _, value = next(arguments).partition(": ")
                headers[name] = value
            case "--json":
                body = next(arguments)
                headers["Content-Type"] = "application/json"
            case _:
                url = argument
    return await client.request(method, url, headers=headers, content=body)


async def _note(
    db: Database, answer: httpx.Response, known: dict[str, str], *, now: datetime
) -> None:
    told: Any = answer.json() if answer.content else {}
    path = answer.request.url.path
    if path == "/v1/endpoints":
        known["ENDPOINT"] = told["id"]
    elif path == "/v1/contacts:upsert":
        known["CONTACT"] = told["contact"]["id"]
    elif path.endswith("/duplicates"):
        async with db.work() as session:
            twin = await crm.create_contact(
                session, name="D. Whitfield", cause=crm.Cause("person"), now=now
            )
        known["OTHER"] = twin.id
    elif path.endswith("/merge"):
        known["CHANGE"] = told["change_id"]
    elif path == "/v1/hooks" and answer.request.method == "POST":
        known["HOOK"] = told["id"]
    elif path == "/v1/deliveries":
        known["DELIVERY"] = told["data"][0]["id"]
    elif path == "/v1/events":
        known["CURSOR"] = told["next_cursor"]
    async with db.work() as session:  # what the courier does all the time
        await service.fan_out(session, await publish(session), now=now)


@pytest.mark.parametrize("changed", [False, True])
def test_the_python_way_to_verify(changed: bool) -> None:
    """The snippet takes what we signed, and refuses it with one byte changed."""
    secret = signing.new_secret()
    headers = signing.headers(BODY, event_id="evt_1", at=utc_now(), secrets=[secret])
    body = BODY.replace(b"call", b"cell") if changed else BODY
    (snippet,) = blocks("python")
    names: dict[str, Any] = {"secret": secret, "body": body, "headers": headers}
    if changed:
        with pytest.raises(WebhookVerificationError):
            exec(snippet, names)  # noqa: S102 - our own guide
    else:
        exec(snippet, names)  # noqa: S102 - our own guide
        assert names["event"]["type"] == "call.ended"


@pytest.mark.parametrize(
    ("changed", "says"), [(False, "verified call.ended attempt 1"), (True, "forged:")]
)
async def test_the_receiver_to_try_with(tmp_path: Path, changed: bool, says: str) -> None:
    """Run as it stands, it tells what holds from what does not, and answers so."""
    (snippet,) = blocks("py")
    program, port = tmp_path / "receiver.py", free_port()
    program.write_text(snippet.replace("3000", str(port)), encoding="utf-8")
    secret = signing.new_secret()
    headers = signing.headers(BODY, event_id="evt_1", at=utc_now(), secrets=[secret])
    body = BODY.replace(b"call", b"cell") if changed else BODY
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), secret, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(120):
            answer = await _post(port, body, {**headers, "trunkline-attempt": "1"})
            assert process.stdout
            said = await process.stdout.readline()
    finally:
        process.kill()
        await process.wait()
    assert (answer.status_code, said.decode().startswith(says)) == (400 if changed else 204, True)


def free_port() -> int:
    """One that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _post(port: int, body: bytes, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                return await client.post(
                    f"http://127.0.0.1:{port}/", content=body, headers=headers, timeout=60
                )
            except httpx.ConnectError:
                await asyncio.sleep(0.05)  # pace: it says nothing when it begins to listen


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "verified"),
        ({"SIGNATURE": "v1,AAAA {right}"}, "verified"),  # during a rotation, ours comes second
        ({"SIGNATURE": "v1,AAAA"}, "forged"),
        ({"ID": "evt_2"}, "forged"),  # of another event
        ({"TIMESTAMP": "1"}, "forged"),  # of another moment
    ],
)
def test_the_way_to_verify_by_hand(
    need: "Need", tmp_path: Path, now: datetime, change: dict[str, str], says: str
) -> None:
    """The shell snippet, with openssl alone, takes what we signed and refuses anything else."""
    need("openssl", shutil.which("openssl") is not None, "install it")
    secret = signing.new_secret()
    headers = signing.headers(BODY, event_id="evt_1", at=now, secrets=[secret])
    right = headers["webhook-signature"]
    body = tmp_path / "body"
    body.write_bytes(BODY)
    given = {
        "SECRET": secret,
        "ID": headers["webhook-id"],
        "TIMESTAMP": headers["webhook-timestamp"],
        "SIGNATURE": right,
        "BODY": str(body),
        **{name: value.format(right=right) for name, value in change.items()},
    }
    (snippet,) = blocks("bash")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet],
        env={"PATH": "/usr/bin:/bin", **given}, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.strip() == says


if __name__ == "__main__" and "--write" in sys.argv:
    text = GUIDE.read_text(encoding="utf-8")
    for name, table in tables().items():
        found = part(name).search(text)
        assert found
        text = text.replace(found[0], f"{found[1]}{table}\n{found[3]}")
    GUIDE.write_text(text, encoding="utf-8")
