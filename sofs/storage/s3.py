"""``s3://bucket/prefix``: slots on an S3 service, through s3fs (R12).

Which of its calls are used. s3fs brings the session: credentials, endpoint, connections, its event
loop. Objects are created by ``PutObject`` with ``If-None-Match: *`` on its client directly, never
by s3fs's ``open("xb")`` (which overwrites when the new object is empty) or ``pipe_file`` (which
tells "exists" from "bad request" by a text that not every service sends, and sends again by itself
what may have happened). Listings bypass its cache.

What an outcome means. 412 is "it exists": the caller compares bytes, since it may be its own object
after a lost reply. 409 is "another upload of this key is under way": nothing is known, ask again.
A refusal (403, 404 of the bucket, 400) is definite. Everything else (5xx, a connection that ends, a
reply that does not come in REPLY_S_MAX) may have taken effect: ``StoreUnknown``. Reads are tried
READ_TRIES_MAX times, since they change nothing. (Under all of this the HTTP client repeats once
what went out on a kept connection that was closed meanwhile; a create then finds its own object.)

What the service must give: conditional creates that are atomic, and reads and listings that see
every completed create. AWS does so; what pretends to and does not is refused by the probe at
attach, as far as a probe can see (``storage.probe``).

Where. The bucket must exist. Keys, region and endpoint come from the usual ``AWS_*`` variables and
files (``AWS_ENDPOINT_URL`` for other services); the endpoint may stand in the URL instead, where it
reaches every process with the root: ``s3://bucket/prefix?endpoint_url=http://127.0.0.1:8333``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from sofs.errors import (
    BackendRefused,
    InvalidParameter,
    ReadOnlyBackend,
    SofsError,
    StoreFailed,
    StoreUnknown,
)
from sofs.storage.local import check_key
from sofs.storage.slots import SlotStore

ENDPOINTS_MAX: Final = 8  # Of one process.
CONNECT_S_MAX: Final = 5.0
REPLY_S_MAX: Final = 15.0  # Silence after which a request's outcome counts as unknown.
CONNECTIONS_MAX: Final = 64
READ_TRIES_MAX: Final = 4
READ_RETRY_S: Final = 0.1
LIST_KEYS: Final = 1000  # A page of a listing; the services' own limit.

_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "403", "MethodNotAllowed"})
_CREDENTIALS: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
_PARAMETERS: Final = frozenset({"endpoint_url"})

T = TypeVar("T")


class _Absent(Exception):
    """The object does not exist."""


class _Exists(Exception):
    """The object exists."""


class S3SlotStore(SlotStore):
    """One prefix of one bucket. Every call blocks its thread; the store may be used by many."""

    remote = True

    def __init__(self, url: str) -> None:
        bucket, prefix, endpoint = split_url(url)
        filesystem = _filesystem(endpoint)
        super().__init__(filesystem, f"{bucket}/{prefix}".rstrip("/"), url)
        self._bucket = bucket
        self._prefix = prefix

    def _create(self, path: str, data: bytes) -> bool:
        try:
            self._ask(
                "create",
                path,
                lambda s3: s3.put_object(
                    Bucket=self._bucket, Key=self._name(path), Body=data, IfNoneMatch="*"
                ),
            )
        except _Exists:
            return False
        return True

    def get(self, key: str) -> bytes | None:
        path = self._path(key)

        async def body(s3: Any) -> bytes:
            reply = await s3.get_object(Bucket=self._bucket, Key=self._name(path))
            return cast(bytes, await reply["Body"].read())

        try:
            return self._again("get", path, body)
        except _Absent:
            return None

    def read(self, key: str, offset: int, length: int) -> bytes:
        path = self._path(key)
        wanted = f"bytes={offset}-{offset + length - 1}"

        async def body(s3: Any) -> bytes:
            reply = await s3.get_object(Bucket=self._bucket, Key=self._name(path), Range=wanted)
            return cast(bytes, await reply["Body"].read())

        try:
            return self._again("read", path, body) if length > 0 else b""
        except _BehindEnd:
            return b""
        except _Absent:
            raise StoreFailed(f"read {key}: there is no such object") from None

    def list(self, prefix: str, *, after: str = "") -> list[str]:
        folder = f"{self._root}/{check_key(prefix)}" if prefix else self._root
        start = f"{self._name(folder)}/".lstrip("/")

        async def names(s3: Any) -> list[str]:
            found: list[str] = []
            more = {"StartAfter": self._name(self._path(after))} if after else {}
            while True:
                reply = await s3.list_objects_v2(
                    Bucket=self._bucket, Prefix=start, MaxKeys=LIST_KEYS, **more
                )
                found += [entry["Key"] for entry in reply.get("Contents", ())]
                if not reply.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": reply["NextContinuationToken"]}

        skip = len(self._prefix) + 1 if self._prefix else 0
        return sorted(name[skip:] for name in self._again("list", folder, names))

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._again(
                "delete",
                path,
                lambda s3: s3.delete_object(Bucket=self._bucket, Key=self._name(path)),
            )
        except _Absent:
            return

    def put_hint(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            self._ask(
                "hint",
                path,
                lambda s3: s3.put_object(Bucket=self._bucket, Key=self._name(path), Body=data),
            )
        except SofsError:
            return  # It is a hint: the next one will do.

    def _name(self, path: str) -> str:
        """The object's key in the bucket."""
        return path.partition("/")[2]

    # Asking
    # ------------------------------------------------------------------------------------------

    def _ask(self, doing: str, path: str, call: Callable[[Any], Awaitable[T]]) -> T:
        """Make one request, once, and give its outcome a type."""
        from fsspec.asyn import sync

        async def ask() -> T:
            return await call(await self._fs.set_session())

        try:
            return cast(T, sync(self._fs.loop, ask))
        except Exception as error:
            raise _typed(error, doing, path) from error

    def _again(self, doing: str, path: str, call: Callable[[Any], Awaitable[T]]) -> T:
        """Make a request that may be made twice, until its outcome is known."""
        for attempt in range(READ_TRIES_MAX):
            try:
                return self._ask(doing, path, call)
            except StoreUnknown as error:
                if attempt == READ_TRIES_MAX - 1:
                    raise StoreFailed(f"{error.message}; {READ_TRIES_MAX} tries") from error
                time.sleep(READ_RETRY_S * (attempt + 1))
        raise AssertionError("unreachable")


class _BehindEnd(Exception):
    """The range begins behind the object's last byte."""


def split_url(url: str) -> tuple[str, str, str]:
    """Return (bucket, prefix, endpoint or "") of an ``s3://`` URL. Raises InvalidParameter."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - _PARAMETERS)
    if not parts.netloc or "@" in parts.netloc or parts.fragment:
        raise InvalidParameter(f"{url} is no s3://bucket/prefix; credentials come from AWS_*")
    if unknown:
        raise InvalidParameter(f"{url}: {unknown[0]} is not known; there is endpoint_url")
    prefix = parts.path.strip("/")
    if prefix:
        check_key(prefix)
    return parts.netloc, prefix, options.get("endpoint_url", "")


@functools.lru_cache(maxsize=ENDPOINTS_MAX)  # A client costs half a second of CPU to make.
def _filesystem(endpoint: str) -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise BackendRefused("s3:// needs s3fs; install it with: pip install 'sofs[s3]'") from error
    return s3fs.S3FileSystem(
        endpoint_url=endpoint or None,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "retries": {"total_max_attempts": 1},  # We try again ourselves.
            "connect_timeout": CONNECT_S_MAX,
            "read_timeout": REPLY_S_MAX,
            "max_pool_connections": CONNECTIONS_MAX,
        },
    )


def _typed(error: Exception, doing: str, path: str) -> Exception:
    """What a request's failure means."""
    from aiohttp import ClientError as ConnectionFailed
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return BackendRefused(f"{doing} {path}: no credentials; set AWS_ACCESS_KEY_ID and the like")
    if isinstance(error, BotoCoreError | ConnectionFailed | OSError | TimeoutError):
        return StoreUnknown(f"{doing} {path}: {str(error) or type(error).__name__}")
    if not isinstance(error, ClientError):
        return error  # A mistake of ours: nobody takes it for a failure of the service.
    reply = error.response
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"{doing} {path}: {code} ({status})"
    if status == 412:
        return _Exists()
    if status == 416:
        return _BehindEnd()
    if code == "NoSuchBucket":
        return StoreFailed(f"{text}; create the bucket first")
    if code in _ABSENT:
        return _Absent()
    if code in _CREDENTIALS:
        return BackendRefused(f"{text}; the service does not accept these credentials")
    if code in _REFUSED:
        return ReadOnlyBackend(f"{text}; allow reading, writing, listing and deleting there")
    if status in (400, 501) or code == "NotImplemented":
        return StoreFailed(f"{text}; the service does not take this request")
    return StoreUnknown(f"{text}; whether it happened is open")
