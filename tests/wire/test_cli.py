"""The command line as a person or a script uses it: processes, exit codes, one clear sentence."""

import asyncio
import json
import os
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from trunkline.calls import service
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database
from trunkline.sandbox.demo import prepare
from trunkline.sandbox.story import seed

BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("TRUNKLINE_", "LIVEKIT_", "DEEPGRAM_", "OPENAI_", "CARTESIA_"))
}

WITHOUT_SANDBOX = (
    "import sys; "
    "sys.modules.update(dict.fromkeys(['pocketsphinx', 'espeakng_loader', 'trunkline.sandbox'])); "
    "from trunkline.cli.main import run; sys.exit(run(sys.argv[1:]))"
)


async def run(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run one command to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", *arguments,
        cwd=cwd,
        env={**BARE, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def serving(data: Path, *, without_sandbox: bool = False) -> AsyncIterator[str]:
    """``trunkline serve`` on a free port; yields its address."""
    how = ("-c", WITHOUT_SANDBOX) if without_sandbox else ("-m", "trunkline")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *how, "serve", "--data", str(data), "--port", "0",
        env=BARE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        if not line:
            _, err = await process.communicate()
            pytest.fail(err.decode())
        yield f"http://127.0.0.1:{int(line.split()[1])}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "trunkline demo"),
        (["nonsense"], 2, "No such command"),
        (["demo", "--fault", "x:y"], 2, "is no fault; write part:kind@turn"),
        (["demo", "--calls", "xyz"], 2, "names no calls"),
        (["sandbox", "--fault", "llm"], 2, "is no fault"),
        (["db", "check"], 1, "create it, or run: trunkline db upgrade"),
        (["sip", "show"], 2, "missing: LIVEKIT_URL"),
        (["worker"], 2, "missing: LIVEKIT_URL"),
        (["webhooks", "listen"], 2, "TRUNKLINE_API_KEY"),
        (
            ["webhooks", "replay", "whk_1", "--key", "tl_x", "--url", "http://127.0.0.1:9"],
            1,
            "127.0.0.1:9",
        ),
        (["key", "add", "x", "--scope", "nothing"], 1, "trunkline db upgrade"),
    ],
)
async def test_exit_codes(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    """0 is success, 1 a failure, 2 wrong usage; what to do stands in one place, without a trace."""
    got, out, err = await run(*arguments, cwd=tmp_path)
    said = " ".join((out + err).replace("│", " ").split())
    assert says in said
    assert "Traceback" not in err
    assert got == code


async def test_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    """A setting that is wrong stops the start with a sentence, exit code 2."""
    code, _, err = await run("serve", cwd=tmp_path, env={"TRUNKLINE_PORT": "many"})
    assert (code, "TRUNKLINE_PORT" in err, "Traceback" in err) == (2, True, False)


async def test_a_port_in_use(tmp_path: Path) -> None:
    """The port that is taken is named, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = await run("serve", "--port", str(port), cwd=tmp_path)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "choose another port" in err


async def test_a_database_of_another_revision(tmp_path: Path) -> None:
    """An existing database is never changed by ``serve``; it says which command does it."""
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "trunkline.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0000')")
    connection.close()
    code, _, err = await run("serve", "--data", "data", "--port", "0", cwd=tmp_path)
    assert code == 1
    assert "is at revision 0000" in err
    assert "run: trunkline db upgrade" in err


async def test_somebody_elses_data_is_not_the_demos(tmp_path: Path) -> None:
    """The demo never sets aside a database that is not its own."""
    (tmp_path / "trunkline.db").write_bytes(b"precious")
    code, _, err = await run("demo", "--once", "--data", str(tmp_path), cwd=tmp_path)
    assert code == 1
    assert "not a demo's" in err
    assert (tmp_path / "trunkline.db").read_bytes() == b"precious"


async def test_two_demos_do_not_share_a_folder(tmp_path: Path, now: datetime) -> None:
    """A second demo leaves the first one's data alone and says what to do."""
    with prepare(tmp_path, now=now):
        (tmp_path / "trunkline.db").write_bytes(b"in use")
        code, _, err = await run("demo", "--once", "--data", str(tmp_path), cwd=tmp_path)
    assert code == 1
    assert "another demo runs in" in err
    assert (tmp_path / "trunkline.db").read_bytes() == b"in use"


async def test_serve_needs_no_sandbox(tmp_path: Path) -> None:
    """Production runs without the sandbox's packages: a new database is made and the API answers."""
    async with (
        serving(tmp_path / "data", without_sandbox=True) as address,
        httpx.AsyncClient(base_url=address, timeout=5) as client,
    ):
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/login")).status_code == 200
        assert (await client.get("/calls")).status_code == 401
        code, out, _ = await run(
            "key", "add", "test", "--json", "--data", str(tmp_path / "data"), cwd=tmp_path
        )
        assert code == 0
        key = json.loads(out)["key"]
        answer = await client.get("/v1/calls", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert (await client.get("/v1/calls")).status_code == 401


async def test_the_database_is_made_and_checked(tmp_path: Path) -> None:
    """``db upgrade`` makes the folder and the tables; ``db check`` then agrees."""
    assert (await run("db", "upgrade", "--data", "new", cwd=tmp_path))[0] == 0
    code, out, _ = await run("db", "check", "--json", "--data", "new", cwd=tmp_path)
    assert code == 0
    assert json.loads(out)["ok"] is True


async def test_contacts_from_a_file(tmp_path: Path) -> None:
    """A dry run leaves nothing behind; the import makes whom it can and tells the others by their line."""
    (tmp_path / "people.csv").write_text(
        "Name;Phone\nDana Whitfield;(202) 555-0134\nNobody;12\nJames;+1 202 555 0145\n", "utf-8"
    )
    await run("db", "upgrade", "--data", "new", cwd=tmp_path)
    given = ("contacts", "import", "people.csv", "--region", "US", "--json", "--data", "new")
    code, out, err = await run(*given, "--dry-run", cwd=tmp_path)
    assert code == 0, err
    would = json.loads(out)
    assert (would["made"], would["failed"], would["dry_run"]) == (2, 1, True)
    assert would["columns"] == {"Name": "name", "Phone": "phone"}
    assert "2 contacts would be made" in " ".join(err.split())
    assert not list((tmp_path / "new" / "blobs" / "imports").glob("*"))
    code, out, err = await run(*given, "--errors", "failed.csv", cwd=tmp_path)
    assert code == 0, err
    done = json.loads(out)
    assert (done["made"], done["failed"]) == (2, 1)
    assert done["errors"][0]["line"] == 3
    assert "Nobody" in (tmp_path / "failed.csv").read_text("utf-8-sig")
    again = json.loads((await run(*given, cwd=tmp_path))[1])
    assert (again["made"], again["same"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.csv"], "nowhere.csv cannot be read: No such file"),
        (["people.csv", "--columns", "name,nonsense"], "nonsense"),
        (["people.csv", "--region", "XX"], "XX"),
    ],
)
async def test_a_file_that_will_not_do(arguments: list[str], says: str, tmp_path: Path) -> None:
    """One sentence, exit code 2, and no file is kept."""
    (tmp_path / "people.csv").write_text("Name,Phone\nDana,+12025550134\n", "utf-8")
    await run("db", "upgrade", "--data", "new", cwd=tmp_path)
    code, _, err = await run("contacts", "import", *arguments, "--data", "new", cwd=tmp_path)
    assert code == 2, err
    assert says in " ".join(err.split())
    assert not list((tmp_path / "new" / "blobs" / "imports").glob("*"))


async def test_calling_somebody(tmp_path: Path) -> None:
    """`trunkline call` queues the call and prints its id; what may not be called is one sentence."""
    data = ("--data", str(tmp_path))
    url = f"sqlite+aiosqlite:///{tmp_path / 'trunkline.db'}"
    assert (await run("db", "upgrade", *data, cwd=tmp_path))[0] == 0
    code, _, err = await run("call", "+12025550134", *data, cwd=tmp_path)
    assert (code, "'outbound'" in err) == (1, True)
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
    code, out, err = await run(
        "call", "+12025550134", "--reason", "your order", "--json", *data, cwd=tmp_path
    )
    assert code == 0, err
    told = json.loads(out)
    assert (told["state"], told["reason"], told["from_number"]) == (
        "queued", "your order", "+12025550100",
    )  # fmt: skip
    assert (await run("call", "5550134", *data, cwd=tmp_path))[0] == 2
    waiting = asyncio.create_task(run("call", "+12025550145", "--wait", *data, cwd=tmp_path))
    async with asyncio.timeout(60):
        while True:
            async with db.work() as session:
                if found := await session.scalar(
                    select(Call).where(Call.to_number == "+12025550145")
                ):
                    await service.end(session, found.id, EndReason.BUSY, now=utc_now())
                    break
            await asyncio.sleep(0.05)  # pace: another process asks for it
    await db.close()
    code, _, err = await waiting
    assert (code, "ended. The line was busy." in err) == (1, True), err
