"""Objects in a bucket of S3, Google Cloud Storage or Azure, by obstore.

An object is made by one request, which is refused where the key has bytes: nobody sees part of one. Who may do this,
and at which address, obstore takes from the environment of the provider (`AWS_...`, `GOOGLE_...`, `AZURE_...`).
"""

import io
import mmap
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from sexton import errors
from sexton.blobs.keys import Stored, checked, folder_of, holds, is_key

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Config, S3Store

SCHEMES = ("s3", "gs", "az")

_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

# obstore has one error for whatever it does not know better, and only its text tells these from the rest. Where the
# environment has no credentials, those of the machine are asked for, at the addresses in the second line.
_DENIED = re.compile(
    r"AccessDenied|40[13] (Forbidden|Unauthorized)"
    r"|/latest/api/token|/latest/meta-data/|/computeMetadata/|/metadata/identity"
)
_SAID = re.compile(r"<Code>(\w+)</Code>\s*<Message>([^<]*)")

PATIENCE = 30.0
_UPLOAD_PATIENCE = 20
"""Times that: the first word to a put comes after all of the pack was sent, by whatever uplink there is."""

_RETRIES = 3
_UPLOADS = 4
"""Packs under way from one process: more of them would only time each other out."""

_LISTED = 1000


class Bucket:
    """The objects below a prefix of a bucket. `patience` is for how many seconds the provider may be silent."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self.url = url
        self._scheme = url.partition(":")[0]
        try:
            import obstore.exceptions
        except ImportError:
            extra = f"pip install 'sexton[{_EXTRAS[self._scheme]}]'"
            raise errors.UsageError(reason=f"bytes in {url} need obstore, which is not installed: {extra}") from None
        self._errors = obstore.exceptions
        silence, whole = timedelta(seconds=patience), timedelta(seconds=patience * _UPLOAD_PATIENCE)
        self._uploader = self._client({"connect_timeout": silence}, whole)
        self._asker = self._client({"connect_timeout": silence, "read_timeout": silence}, whole)
        self._uploads = threading.BoundedSemaphore(_UPLOADS)

    def put(self, key: str, path: Path) -> None:
        """See `Place.put`."""
        checked(key)
        with path.open("rb") as file, self._uploads:
            # Mapped, so that a pack takes no memory of its own.
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if path.stat().st_size else b""
            self._create(self._uploader, key, whole, file)

    def put_bytes(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """See `Place.put_bytes`."""
        checked(key)
        if not replace:
            return self._create(self._asker, key, data, io.BytesIO(data))
        with self._asking(key):
            self._asker.put(key, data, use_multipart=False)
        return None

    def read(self, key: str, start: int, end: int) -> bytes:
        """See `Place.read`."""
        checked(key)
        if start >= end:
            return b""
        with self._asking(key):
            data = bytes(self._asker.get_range(key, start=start, end=end))
        if len(data) < end - start:
            raise errors.IntegrityError(what=key, reason=f"it ends after {start + len(data)} bytes, before {end}")
        return data

    def size(self, key: str) -> int:
        """See `Place.size`."""
        checked(key)
        with self._asking(key):
            return self._asker.head(key)["size"]

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Place.list`."""
        start = folder_of(prefix)
        with self._asking():
            for found in self._asker.list(start or None, chunk_size=_LISTED):
                for one in found:
                    key = one["path"]
                    if is_key(key):
                        at = int(one["last_modified"].timestamp() * 1_000_000) * 1000
                        yield Stored(key, one["size"], at)

    def delete(self, keys: Sequence[str]) -> None:
        """See `Place.delete`."""
        for key in keys:
            checked(key)
        if not keys:
            return
        with self._asking():
            try:
                self._asker.delete(keys)
            except FileNotFoundError:  # not every provider takes what is gone for deleted, and the rest is left then
                self._reach()
                for key in keys:
                    with suppress(FileNotFoundError):
                        self._asker.delete(key)

    def sign(self, method: Literal["GET", "PUT"], key: str, seconds: int) -> str:
        """See `Place.sign`. The provider may grant less: S3 a week."""
        import obstore

        with self._asking(key):
            return obstore.sign(self._asker, method, checked(key), timedelta(seconds=seconds))

    def tidy(self) -> None:
        """A put that was cut off leaves nothing."""

    def _client(self, patience: "ClientConfig", whole: timedelta) -> "S3Store | GCSStore | AzureStore":
        from obstore import store

        options: ClientConfig = {"timeout": whole, "allow_http": True}  # only an address that somebody gave is http://
        options |= patience
        retry: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": whole}
        try:
            if self._scheme == "s3":
                config: S3Config = {"checksum_algorithm": "SHA256"}
                return store.S3Store.from_url(self.url, config=config, client_options=options, retry_config=retry)
            kind = store.GCSStore if self._scheme == "gs" else store.AzureStore
            return kind.from_url(self.url, client_options=options, retry_config=retry)
        except (self._errors.BaseError, ValueError) as error:
            reason = f"{self.url!r} can not be used as a place for bytes: {_said(error)}"
            raise errors.UsageError(reason=f"{reason}. Correct it, or set {_VARIABLES[self._scheme]}") from None

    def _create(
        self, client: "S3Store | GCSStore | AzureStore", key: str, data: memoryview | bytes, file: BinaryIO
    ) -> None:
        """Put what `file` has too. A put whose reply was lost may have been done: then these bytes are there."""
        try:
            with self._asking(key):
                client.put(key, data, mode="create")
        except errors.KeyTaken:
            if not holds(self, key, file, len(data)):
                raise

    @contextmanager
    def _asking(self, key: str | None = None) -> Iterator[None]:
        """What the provider refuses, in our words."""
        try:
            yield
        except FileNotFoundError:
            self._reach()
            raise errors.BlobNotFound(digest=key or self.url) from None
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            raise errors.KeyTaken(key=key, place=self.url) from None
        except self._errors.BaseError as error:
            if "416 Range Not Satisfiable" in str(error):
                raise errors.IntegrityError(what=key, reason="it is shorter than it was") from None
            raise self._refusal(error) from error

    def _reach(self) -> None:
        """See that the bucket is there: for most of what one asks of a missing bucket, it is the object that is said to
        be missing."""
        try:
            next(iter(self._asker.list("store.json", chunk_size=1)), None)
        except (self._errors.BaseError, FileNotFoundError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> errors.SextonError:
        reason, kinds = _said(error), (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)
        if isinstance(error, kinds) or _DENIED.search(str(error)):
            needs = f"it takes {_VARIABLES[self._scheme]} of somebody who may read, write, list and delete there"
            return errors.Denied(reason=f"{self.url} refuses it ({reason}), {needs}")
        return errors.Unavailable(what=f"The bucket of stored bytes {self.url}", reason=reason)


def _said(error: Exception) -> str:
    """The reason among what obstore tells of a request."""
    text = str(error).split("\n\nDebug source:")[0]
    said = _SAID.search(text)
    return f"{said[1]}: {said[2]}" if said else text.rpartition(" - ")[2].strip()[:300]
