"""A store behind a server, over HTTP.

Whatever a server answers, only a `SextonError` comes out of here: its own, rebuilt from a closed table, or one that
says that no Sexton server answers. Replies are bounded, never followed elsewhere, and never trusted to be well-formed.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import zstandard

from sexton import errors
from sexton.model.access import API_VERSION, Greeting, Health
from sexton.model.artifacts import Manifest, PackClass, Upload, Where
from sexton.model.records import Ack, Batch
from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series
from sexton.model.storage import Grouping, Storage
from sexton.model.values import clean_text

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0

COMPRESS_BYTES = 64 << 10
REQUEST_BYTES = 16 << 20
"""What one request of `ingest` carries; only a single batch may be larger."""

PIECE_BYTES = 1 << 20

REPLY_BYTES = 512 << 20
ERROR_BYTES = 1 << 20

T = TypeVar("T")


class _Told(msgspec.Struct):
    code: str
    message: str = ""
    fields: dict[str, Any] = {}
    transient: bool = False


class _Failure(msgspec.Struct):
    error: _Told


class Remote:
    """`Client` of the server at `url`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {token}"} if token else {},
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                trust_env=urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy to ourselves
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise errors.InvalidSetting(name="url", value=url, source="the address", reason=str(error)) from None
        self._greeted = False

    def health(self) -> Health:
        """See `Client`."""
        return self._get("health", Health)

    def ingest(self, batches: Sequence[Batch]) -> list[Ack]:
        """See `Client`."""
        acks: list[Ack] = []
        for part in _parts(batches):
            body = msgspec.msgpack.encode(part)
            headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
            if len(body) > COMPRESS_BYTES:
                body = zstandard.ZstdCompressor(level=1).compress(body)
                headers["content-encoding"] = "zstd"
            reply = self._ask("POST", "ingest", content=body, headers=headers)
            told = self._understood(msgspec.msgpack.Decoder(list[Ack]), reply)
            if len(told) != len(part):
                raise self._foreign(f"it acknowledged {len(told)} of {len(part)} batches")
            acks += told
        return acks

    def open_upload(self) -> Upload:
        """See `Client`."""
        return self._packed("uploads", None, Upload)

    def pin(self, upload: str, hashes: Sequence[bytes]) -> list[bytes]:
        """See `Client`."""
        return self._packed(f"uploads/{quote(upload, safe='')}/pin", hashes, list[bytes])

    def put_pack(self, upload: str, kind: PackClass, path: Path) -> None:
        """See `Client`."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            headers = {"content-type": "application/octet-stream", "content-length": str(size)}
            pieces = iter(partial(file.read, PIECE_BYTES), b"")
            self._tell("PUT", f"uploads/{quote(upload, safe='')}/packs/{kind}", content=pieces, headers=headers)

    def claim(self, upload: str, digests: Sequence[str]) -> list[str]:
        """See `Client`."""
        return self._packed(f"uploads/{quote(upload, safe='')}/claim", digests, list[str])

    def commit_manifest(self, upload: str, manifest: Manifest) -> None:
        """See `Client`."""
        body, headers = msgspec.msgpack.encode(manifest), {"content-type": "application/msgpack"}
        self._tell("POST", f"uploads/{quote(upload, safe='')}/manifests", content=body, headers=headers)

    def keep_receipt(self, upload: str, batch: Batch) -> None:
        """See `Client`."""
        body, headers = msgspec.msgpack.encode(batch), {"content-type": "application/msgpack"}
        self._tell("POST", f"uploads/{quote(upload, safe='')}/receipts", content=body, headers=headers)

    def close_upload(self, upload: str) -> None:
        """See `Client`."""
        self._tell("DELETE", f"uploads/{quote(upload, safe='')}")

    def manifest(self, digest: str) -> Manifest:
        """See `Client`."""
        reply = self._ask("GET", f"manifests/{quote(digest, safe=':')}")
        return self._understood(msgspec.msgpack.Decoder(Manifest), reply)

    def locate(self, hashes: Sequence[bytes]) -> list[Where]:
        """See `Client`."""
        return self._packed("chunks/locate", hashes, list[Where])

    def read_pack(self, pack: int, start: int, end: int) -> bytes:
        """See `Client`."""
        data = self._ask("GET", f"packs/{pack}", params={"start": start, "end": end})
        if len(data) != end - start:
            raise self._foreign(f"it sends {len(data)} bytes of a pack where {end - start} were asked for")
        return data

    def doubt(self, hashes: Sequence[bytes]) -> None:
        """See `Client`."""
        headers = {"content-type": "application/msgpack"}
        self._tell("POST", "chunks/doubt", content=msgspec.msgpack.encode(hashes), headers=headers)

    def storage(self, by: Grouping, limit: int = 100) -> Storage:
        """See `Client`."""
        return self._get("storage", Storage, by=by, limit=limit)

    def runs(self, which: RunFilter) -> Page:
        """See `Client`."""
        said = msgspec.to_builtins(which)
        return self._get("runs", Page, **said)

    def run(self, run: str) -> Detail:
        """See `Client`."""
        return self._get(_of(run), Detail)

    def series(self, run: str, metric: str, points: int | None = None, context: str = "") -> Series:
        """See `Client`."""
        said = {"metric": metric, "points": points, "context": context}
        return self._get(
            _of(run, "series"), Series, **{name: value for name, value in said.items() if value is not None}
        )

    def console(self, run: str) -> ConsoleText:
        """See `Client`."""
        return self._get(_of(run, "console"), ConsoleText)

    def tag(self, run: str, key: str, value: str | None) -> None:
        """See `Client`."""
        self._add(_of(run, "tags"), {"key": clean_text(key), "value": None if value is None else clean_text(value)})

    def note(self, run: str, text: str) -> None:
        """See `Client`."""
        self._add(_of(run, "notes"), {"text": clean_text(text)})

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """See `Client`."""
        return self._get("changes", Changes, since=since, limit=limit)

    def close(self) -> None:
        """See `Client`."""
        self._http.close()

    # ------------------------------------------------------------------------------------------------------- inside

    def _get(self, path: str, kind: type[T], **params: Any) -> T:
        return self._understood(msgspec.json.Decoder(kind), self._ask("GET", path, params=params))

    def _packed(self, path: str, body: object, kind: type[T]) -> T:
        """What a request with a msgpack body is answered, in msgpack."""
        headers = {"content-type": "application/msgpack"}
        reply = self._ask("POST", path, content=msgspec.msgpack.encode(body), headers=headers)
        return self._understood(msgspec.msgpack.Decoder(kind), reply)

    def _add(self, path: str, body: object) -> None:
        self._tell("POST", path, content=msgspec.json.encode(body), headers={"content-type": "application/json"})

    def _tell(self, verb: str, path: str, **request: Any) -> None:
        """A request whose good reply is that it is done, and nothing else: anybody's page says 200."""
        self._greet()
        with self._exchange(verb, _path(path), **request) as response:
            if response.status_code != 204:
                raise self._foreign(f"it answers {response.status_code} where 204 was due")

    def _ask(self, verb: str, path: str, **request: Any) -> bytes:
        """The body of a good reply."""
        self._greet()
        with self._exchange(verb, _path(path), **request) as response:
            return self._body(response, REPLY_BYTES)

    def _greet(self) -> None:
        """Once: is this a Sexton server, and does it speak our version? Raises `WrongVersion`."""
        if self._greeted:
            return
        with self._exchange("GET", "/health") as response:
            greeting = self._understood(msgspec.json.Decoder(Greeting), self._body(response, ERROR_BYTES))
        if greeting.api != API_VERSION:
            raise errors.WrongVersion(url=self.url, theirs=greeting.api, ours=API_VERSION)
        self._greeted = True

    @contextmanager
    def _exchange(self, verb: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """One request and its good reply, the body yet to be read."""
        try:
            with self._http.stream(verb, path, **request) as response:
                if not response.is_success:
                    raise self._failure(response)
                if "content-encoding" in response.headers:  # never asked for, and a few bytes could become very many
                    raise self._foreign("its reply is compressed")
                yield response
        except httpx.InvalidURL as error:
            raise errors.UsageError(reason=f"this can not be asked of a server: {error}") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise errors.ServerUnreachable(url=self.url, reason=str(error) or type(error).__name__) from error

    def _body(self, response: httpx.Response, limit: int) -> bytes:
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > limit:
                raise self._foreign(f"its reply is longer than {limit:,} bytes")
        return bytes(body)

    def _understood(self, decoder: "msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T]", body: bytes) -> T:
        try:
            understood: T = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._foreign(f"its reply is not understood: {error}") from None
        return understood

    def _failure(self, response: httpx.Response) -> errors.SextonError:
        """What a reply that is not good says."""
        try:
            told = msgspec.json.decode(self._body(response, ERROR_BYTES), type=_Failure).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            elsewhere = f", and points to {response.headers['location']}" if "location" in response.headers else ""
            return self._foreign(f"it answers {response.status_code}{elsewhere}")
        if told.transient and told.code not in errors.BY_CODE:  # a newer server's: what to do about it is known
            return errors.Unavailable(what=f"The server at {self.url}", reason=told.message)
        return errors.SextonError.rebuild(told.code, told.fields)

    def _foreign(self, reason: str) -> errors.Unavailable:
        """Something answers that does not speak as we do: a proxy's page, another program, a damaged reply."""
        return errors.Unavailable(what=f"The server at {self.url}", reason=reason)


def _path(path: str) -> str:
    return f"/api/v{API_VERSION}/{path}"


def _of(run: str, *rest: str) -> str:
    """Path of a run. Raises `RunNotFound` for what can not be the beginning of an id."""
    if not (run.isascii() and run.isalnum()):
        raise errors.RunNotFound(run=run)
    return "/".join(["runs", run, *rest])


def _parts(batches: Iterable[Batch]) -> Iterator[list[msgspec.Raw]]:
    """The encoded batches, as many together as a request carries."""
    part: list[msgspec.Raw] = []
    size = 0
    for batch in batches:
        encoded = msgspec.msgpack.encode(batch)
        if part and size + len(encoded) > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(msgspec.Raw(encoded))
        size += len(encoded)
    if part:
        yield part
