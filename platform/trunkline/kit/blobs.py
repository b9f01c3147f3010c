"""Blobs: bytes under a key, in a local folder or in S3-compatible storage.

A key is a relative path of plain names, ``recordings/call_….wav``; it never leaves the folder or
prefix it was opened with. A blob appears whole or not at all, and reads of it may be ranges.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

P = ParamSpec("P")
Result = TypeVar("Result")

_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_KEY_LENGTH = 200

PART_BYTES = 5 * 1024 * 1024
"""How much of a streamed blob is held at once; S3 takes no smaller part but the last."""


class BlobMissing(KeyError):
    """There is no blob under that key."""

    def __str__(self) -> str:
        return f"there is no blob {self.args[0]}"


class BlobsUnavailable(OSError):
    """The storage refuses or does not answer; the message says which and why."""


@dataclass(frozen=True)
class BlobOptions:
    """Where blobs are kept.

    *url* is a folder (a plain path or ``file:///path``) or ``s3://bucket/prefix``. The rest is for S3
    only; what is None is taken from the usual AWS_… variables of the environment.
    """

    url: str
    endpoint: str | None = None
    """Address of an S3-compatible server; None means Amazon's."""
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(seconds=30)
    """How long one request may take, and how long a failing one is tried again. Above zero."""


class Blobs:
    """An opened storage. Every method raises ValueError for a key of the wrong form and
    BlobsUnavailable when the storage itself fails.

    The storage is asked in threads: obstore's own coroutines complete in a thread that the interpreter
    does not know of, and a process that ends right after one may be aborted
    (https://github.com/PyO3/pyo3-async-runtimes/issues/40). Threads of a pool are waited for.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="blobs")

    async def put(self, key: str, data: bytes) -> None:
        """Store *data*, in place of what was there."""
        with self._at(key):
            await self._ask(obstore.put, self._store, key, data)

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store what *chunks* yields, holding PART_BYTES of it at a time.

        An exception from *chunks* is passed on, and then nothing was stored.
        """
        # A thread of its own: after a cancelled write, giving up waits until that write is over.
        thread = ThreadPoolExecutor(1, thread_name_prefix="blob")
        try:
            with self._at(key):
                writer = await _in(
                    thread,
                    partial(
                        obstore.open_writer,
                        self._store,
                        key,
                        buffer_size=PART_BYTES,
                        max_concurrency=2,
                    ),
                )
                try:
                    async for chunk in chunks:
                        await _in(thread, partial(writer.write, chunk))
                except BaseException as error:
                    # Leaving it with an error gives the upload up; closing it would store a part.
                    await _in(thread, partial(writer.__exit__, type(error), error, None))
                    raise
                await _in(thread, writer.close)
        finally:
            thread.shutdown(wait=False)

    async def get(self, key: str) -> bytes:
        """The whole blob. Raises BlobMissing."""
        with self._at(key):
            return await self._ask(lambda: bytes(obstore.get(self._store, key).bytes()))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes *start* up to but not including *end*, cut at the blob's end like a slice.

        Raises BlobMissing, and ValueError for a negative or backward range.
        """
        if not 0 <= start <= end:
            raise ValueError(f"no range of bytes: {start} to {end}")
        if start == end:
            return b""
        try:
            with self._at(key):
                return bytes(
                    await self._ask(obstore.get_range, self._store, key, start=start, end=end)
                )
        except BlobsUnavailable:
            # Storages call a range that begins past the end an error.
            if start >= await self.size(key):
                return b""
            raise

    async def size(self, key: str) -> int:
        """How many bytes the blob has. Raises BlobMissing."""
        with self._at(key):
            return int((await self._ask(obstore.head, self._store, key))["size"])

    async def exists(self, key: str) -> bool:
        """Whether there is a blob under *key*."""
        try:
            await self.size(key)
        except BlobMissing:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Remove the blob; one that is gone already is fine."""
        try:
            with self._at(key):
                await self._ask(obstore.delete, self._store, key)
        except BlobMissing:
            pass

    async def _ask(self, do: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return await _in(self._threads, partial(do, *args, **kwargs))

    @contextmanager
    def _at(self, key: str) -> Iterator[None]:
        if len(key) > _KEY_LENGTH or not _KEY.fullmatch(key):
            raise ValueError(
                f"{key!r} is no key of a blob; write names of letters, digits, . _ = - with / between, "
                f"none of them beginning with a dot, at most {_KEY_LENGTH} characters"
            )
        try:
            yield
        except FileNotFoundError as error:
            raise BlobMissing(key) from error
        except (BaseError, PermissionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BlobsUnavailable(f"the storage of blobs failed at {key}: {reason}") from error


async def _in(threads: ThreadPoolExecutor, do: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, do)


def open_blobs(options: BlobOptions) -> Blobs:
    """Open the storage; a local folder is made if it is missing, S3 is not contacted yet.

    Raises ValueError when *url* is of no kind we know, BlobsUnavailable when the folder cannot be made.
    """
    scheme, _, _ = options.url.partition("://")
    if scheme == "s3":
        return Blobs(_s3(options))
    if "://" in options.url and scheme != "file":
        raise ValueError(
            f"{options.url!r} is no place for blobs; write a folder or s3://bucket/prefix"
        )
    path = unquote(urlsplit(options.url).path) if scheme == "file" else options.url
    if not path:
        raise ValueError("the place for blobs is empty; write a folder or s3://bucket/prefix")
    folder = Path(path).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BlobsUnavailable(
            f"the folder for blobs cannot be made: {error}; choose another or change its permissions"
        ) from error
    return Blobs(LocalStore(folder))


def _s3(options: BlobOptions) -> S3Store:
    bucket, _, prefix = options.url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError(f"{options.url!r} names no bucket; write s3://bucket/prefix")
    given = {
        "endpoint": options.endpoint,
        "region": options.region,
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
    }
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        client_options={
            "timeout": options.timeout,
            "connect_timeout": min(options.timeout, timedelta(seconds=5)),
            "allow_http": (options.endpoint or "").startswith("http://"),
        },
        retry_config={"max_retries": 3, "retry_timeout": options.timeout},
    )
