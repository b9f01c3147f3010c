"""Blobs in a local folder, and the same contract spoken to an S3-compatible server."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from trunkline.kit.blobs import (
    PART_BYTES,
    BlobMissing,
    BlobOptions,
    Blobs,
    BlobsUnavailable,
    open_blobs,
)


class TinyS3:
    """The part of S3's HTTP that a storage of blobs uses, in memory.

    https://docs.aws.amazon.com/AmazonS3/latest/API/: PUT, GET with Range, HEAD, DeleteObjects,
    and multipart uploads whose parts appear together or not at all. It checks no signature.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.seen: list[tuple[str, str]] = []
        self.broken = False
        self.app = FastAPI()
        self.app.api_route("/{path:path}", methods=["PUT", "GET", "HEAD", "DELETE", "POST"])(
            self.answer
        )

    async def answer(self, path: str, request: Request) -> Response:
        query, body = request.query_params, await request.body()
        self.seen.append((request.method, request.headers.get("authorization", "")))
        if self.broken:
            return self._error(403, "AccessDenied")
        if request.method == "POST" and "uploads" in query:
            self.parts["u1"] = {}
            return self._xml(
                "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == "PUT" and "uploadId" in query:
            self.parts[query["uploadId"]][int(query["partNumber"])] = body
            return Response(headers={"ETag": f'"{query["partNumber"]}"'})
        if request.method == "POST" and "delete" in query:
            keys = re.findall("<Key>(.*?)</Key>", body.decode())
            for key in keys:
                self.objects.pop(f"{path}/{key}", None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return self._xml(f"<DeleteResult>{deleted}</DeleteResult>")
        if request.method == "POST":
            parts = self.parts.pop(query["uploadId"])
            self.objects[path] = b"".join(parts[number] for number in sorted(parts))
            return self._xml(
                "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            )
        if request.method == "PUT":
            self.objects[path] = body
            return Response(headers={"ETag": '"e"'})
        if request.method == "DELETE":
            del self.parts[query["uploadId"]]  # an upload given up
            return Response(status_code=204)
        if path not in self.objects:
            return self._error(404, "NoSuchKey")
        return self._found(self.objects[path], request.headers.get("range"))

    def _found(self, data: bytes, span: str | None) -> Response:
        headers = {"ETag": '"e"', "Last-Modified": "Thu, 15 Jan 2026 09:30:00 GMT"}
        if span is None:
            return Response(data, headers=headers)
        first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
        if first >= len(data):
            return self._error(416, "InvalidRange")
        last = min(last, len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], status_code=206, headers=headers)

    def _xml(self, body: str) -> Response:
        return Response(body, media_type="application/xml")

    def _error(self, status: int, code: str) -> Response:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        return Response(body, status_code=status, media_type="application/xml")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[tuple[TinyS3, str]]:
    """A TinyS3 on a free loopback port, and its address."""
    fake, listener = TinyS3(), socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fake.app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    # The listener takes connections at once, so nobody needs to wait for the server.
    listener.listen()
    thread.start()
    yield fake, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def s3(s3_server: tuple[TinyS3, str]) -> TinyS3:
    fake, _ = s3_server
    fake.objects.clear()
    fake.seen.clear()
    fake.broken = False
    return fake


@pytest.fixture(params=["folder", "file url", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """An empty storage of each kind."""
    place = tmp_path / "some where" / "blobs"
    if request.param == "folder":
        return open_blobs(BlobOptions(str(place)))
    if request.param == "file url":
        return open_blobs(BlobOptions(place.as_uri()))
    request.getfixturevalue("s3")
    _, address = request.getfixturevalue("s3_server")
    return open_blobs(s3_options(address))


def s3_options(address: str) -> BlobOptions:
    return BlobOptions(
        "s3://calls/eu",
        endpoint=address,
        region="eu-central-1",
        access_key_id="AKIDEXAMPLE",
        secret_access_key="secret",
        timeout=timedelta(seconds=10),
    )


async def test_what_is_put_is_got(blobs: Blobs) -> None:
    """A blob comes back as it was stored, can be replaced, measured and deleted."""
    key = "recordings/call_1/00000.pcm"
    assert not await blobs.exists(key)
    await blobs.put(key, b"first")
    await blobs.put(key, b"0123456789")
    assert await blobs.get(key) == b"0123456789"
    assert (await blobs.size(key), await blobs.exists(key)) == (10, True)
    await blobs.delete(key)
    await blobs.delete(key)
    assert not await blobs.exists(key)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 10, b"0123456789"),
        (2, 5, b"234"),  # the end is not part of it
        (9, 10, b"9"),
        (8, 99, b"89"),  # cut like a slice
        (10, 12, b""),  # behind the end
        (3, 3, b""),
    ],
)
async def test_ranges(blobs: Blobs, start: int, end: int, expected: bytes) -> None:
    """A range has the bytes that a slice would have."""
    await blobs.put("a.bin", b"0123456789")
    assert await blobs.get_range("a.bin", start, end) == expected


@pytest.mark.parametrize(("start", "end"), [(-1, 4), (5, 4)])
async def test_ranges_that_are_none(blobs: Blobs, start: int, end: int) -> None:
    """A negative or backward range is the caller's mistake."""
    await blobs.put("a.bin", b"0123456789")
    with pytest.raises(ValueError, match="no range of bytes"):
        await blobs.get_range("a.bin", start, end)


async def test_a_blob_that_is_not_there(blobs: Blobs) -> None:
    """Every read says which key is missing."""
    for read in (blobs.get("no.bin"), blobs.size("no.bin"), blobs.get_range("no.bin", 0, 1)):
        with pytest.raises(BlobMissing, match=r"there is no blob no\.bin"):
            await read


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",  # absolute
        "../secrets",  # out of the folder
        "a/../../b",
        "a/./b",
        "a//b",
        "a/",
        ".hidden",
        "a\\b",  # a separator on other systems
        "a b",
        "a\0b",
        "ä",
        "a\n",
        "x" * 201,
    ],
)
async def test_keys_are_checked(tmp_path: Path, key: str) -> None:
    """No key leads out of the storage or needs quoting; nothing is written for a wrong one."""
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    for use in (blobs.put(key, b"x"), blobs.get(key), blobs.delete(key), blobs.exists(key)):
        with pytest.raises(ValueError, match="is no key of a blob"):
            await use
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["blobs"]
    assert await asyncio.to_thread(os.listdir, tmp_path / "blobs") == []


async def _pieces(*pieces: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


async def test_a_streamed_blob_appears_whole(blobs: Blobs) -> None:
    """Pieces of any size, more than one part of them, become one blob."""
    pieces = [b"a" * PART_BYTES, b"bc", b"", b"d" * 1000]
    await blobs.put_stream("big.bin", _pieces(*pieces))
    assert await blobs.size("big.bin") == PART_BYTES + 1002
    assert await blobs.get_range("big.bin", PART_BYTES - 1, PART_BYTES + 4) == b"abcdd"


async def test_a_stream_that_breaks_off_leaves_what_was_there(blobs: Blobs) -> None:
    """The source's own exception comes through, and the old blob stays whole."""
    await blobs.put("a.bin", b"old")
    with pytest.raises(BlobMissing, match="the source"):
        await blobs.put_stream("a.bin", _pieces(b"x" * PART_BYTES, then=BlobMissing("the source")))
    assert await blobs.get("a.bin") == b"old"


async def test_a_stream_that_is_cancelled_leaves_what_was_there(blobs: Blobs) -> None:
    """Cancelled between two pieces or while one is written, nothing of it is stored."""
    await blobs.put("a.bin", b"old")
    for big in (0, 4 * PART_BYTES):
        asked = asyncio.Event()

        async def endless(
            first: bytes = b"x" * big, asked: asyncio.Event = asked
        ) -> AsyncIterator[bytes]:
            yield b"x"
            asked.set()
            yield first
            await asyncio.Event().wait()

        task = asyncio.create_task(blobs.put_stream("a.bin", endless()))
        await asyncio.wait_for(asked.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await blobs.get("a.bin") == b"old"


def test_a_process_may_end_right_after(tmp_path: Path) -> None:
    """No thread of the storage outlives the interpreter: the process ends with 0, not by SIGABRT."""
    program = f"""
import asyncio
from trunkline.kit.blobs import BlobOptions, open_blobs
async def main():
    blobs = open_blobs(BlobOptions({str(tmp_path)!r}))
    for at in range(20):
        await blobs.put(f"{{at}}.bin", b"x")
    for at in range(20):
        await blobs.delete(f"{{at}}.bin")
asyncio.run(main())
"""
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
        assert done.returncode == 0


async def test_the_prefix_is_kept_and_requests_are_signed(
    s3: TinyS3, s3_server: tuple[TinyS3, str]
) -> None:
    """On S3 a key lies below the prefix of the address, and the given account signs for it."""
    await open_blobs(s3_options(s3_server[1])).put("a/b.bin", b"x")
    assert s3.objects == {"calls/eu/a/b.bin": b"x"}
    ((method, authorization),) = s3.seen
    assert method == "PUT"
    assert "Credential=AKIDEXAMPLE/" in authorization
    assert "/eu-central-1/s3/aws4_request" in authorization


async def test_a_storage_that_refuses(s3: TinyS3, s3_server: tuple[TinyS3, str]) -> None:
    """A refusal is named with the key, and is an OSError; the secret is not in it."""
    s3.broken = True
    blobs = open_blobs(s3_options(s3_server[1]))
    for use in (blobs.put("a.bin", b"x"), blobs.get("a.bin"), blobs.get_range("a.bin", 0, 1)):
        with pytest.raises(BlobsUnavailable, match=r"storage of blobs failed at a\.bin") as told:
            await use
        assert isinstance(told.value, OSError)
        assert "secret" not in str(told.value)


async def test_many_reads_and_writes_at_once(blobs: Blobs) -> None:
    """One opened storage serves many tasks."""
    await asyncio.gather(*(blobs.put(f"{at}.bin", bytes([at])) for at in range(20)))
    assert await asyncio.gather(*(blobs.get(f"{at}.bin") for at in range(20))) == [
        bytes([at]) for at in range(20)
    ]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is empty; write a folder or s3://"),
        ("file://", "is empty; write a folder or s3://"),
        ("ftp://host/dir", "'ftp://host/dir' is no place for blobs; write a folder or s3://"),
        ("s3://", "names no bucket; write s3://bucket/prefix"),
    ],
)
def test_a_place_that_is_none(url: str, sentence: str) -> None:
    """An address of the wrong kind is refused with the right ones."""
    with pytest.raises(ValueError, match=sentence):
        open_blobs(BlobOptions(url))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Where a file is in the way, the message says so and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobsUnavailable, match=r"cannot be made.*choose another"):
        open_blobs(BlobOptions(str(tmp_path / "file" / "blobs")))


def test_the_secret_is_not_shown() -> None:
    """Options may be printed."""
    assert "hidden" not in repr(BlobOptions("s3://b", secret_access_key="hidden"))
