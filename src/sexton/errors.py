"""Every condition a caller can act on, as one tree.

SextonError
  x UsageError            InvalidName InvalidValue InvalidSetting InvalidRecord ForeignPlace InvalidManifest BadQuery
  x NotFound              RunNotFound MetricNotFound BlobNotFound ArtifactNotFound AmbiguousRun
  x Conflict              RunAlreadyEnded KeyTaken UploadClosed ChunksMissing FileChanged
  x Denied                Unauthenticated Forbidden ForeignOrigin UnsafeBind CollectionRefused
  x Unavailable           ServerUnreachable StoreBusy Undelivered Internal (transient)
  x IntegrityError        DigestMismatch StoreTooNew WrongVersion

A class's docstring is its message and says what to do; `{field}` in it is filled from the keyword arguments. `code` is
stable and travels over HTTP, so the client raises the same class that the server did. `transient` alone decides whether
trying again can help; nobody reads message texts.
"""

from string import Formatter
from typing import ClassVar


class _Fields(dict[str, object]):
    """Fields for a message: one that the sender did not know is shown as unknown, not as an empty word."""

    def __missing__(self, key: str) -> str:
        return "(unknown)"


class SextonError(Exception):
    """Something went wrong: {reason}."""

    code: ClassVar[str] = "error"
    transient: ClassVar[bool] = False

    def __init__(self, /, **fields: object) -> None:
        self.fields = fields
        super().__init__()

    def __str__(self) -> str:
        text = " ".join((type(self).__doc__ or "").split())
        return Formatter().vformat(text, (), _Fields(self.fields))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.fields)

    def __init_subclass__(cls) -> None:
        BY_CODE[cls.code] = cls

    @classmethod
    def rebuild(cls, code: str, fields: dict[str, object]) -> "SextonError":
        """The error that `code` names, from a closed table; a code this version does not know stays readable."""
        known = BY_CODE.get(code)
        return known(**fields) if known else SextonError(reason=f"{code} {fields}")


def _rebuild(cls: type[SextonError], fields: dict[str, object]) -> SextonError:
    return cls(**fields)


BY_CODE: dict[str, type[SextonError]] = {SextonError.code: SextonError}


class UsageError(SextonError, ValueError):
    """The request can not be carried out as it is: {reason}."""

    code = "usage"


class InvalidName(UsageError):
    """{what} {name!r} is not a usable name: {reason}."""

    code = "invalid_name"


class InvalidValue(UsageError):
    """{what} can not be {value}: {reason}."""

    code = "invalid_value"


class InvalidSetting(UsageError):
    """Setting {name} has the value {value!r} (from {source}): {reason}."""

    code = "invalid_setting"


class InvalidRecord(UsageError):
    """A batch for run {run} was refused, nothing of it was stored: {reason}."""

    code = "invalid_record"


class BadQuery(UsageError):
    """The query can not be read at column {column}:{caret}{reason}."""

    code = "bad_query"


class ForeignPlace(UsageError):
    """{place} has the bytes of the store {owner}, and this is the store {store}. Give each store a folder, or a prefix
    of a bucket, of its own: set SEXTON_BLOBS."""

    code = "foreign_place"


class InvalidManifest(UsageError):
    """A manifest was refused, nothing of it was stored: {reason}."""

    code = "invalid_manifest"


class NotFound(SextonError, LookupError):
    """{what} was not found."""

    code = "not_found"


class RunNotFound(NotFound):
    """There is no run {run!r} here. `sexton ls` lists this store's runs; `sexton doctor` says which store it is."""

    code = "run_not_found"


class AmbiguousRun(NotFound):
    """{run!r} begins the id of several runs: {matches}. Type more of the id."""

    code = "ambiguous_run"


class MetricNotFound(NotFound):
    """Run {run} has no metric {name!r}. `sexton show {run}` lists its metrics."""

    code = "metric_not_found"


class ArtifactNotFound(NotFound):
    """Run {run} has no file {name!r}. `sexton files {run}` lists its files."""

    code = "artifact_not_found"


class BlobNotFound(NotFound):
    """The bytes {digest} are not in this store."""

    code = "blob_not_found"


class Conflict(SextonError):
    """Somebody else changed {what} first. Read it again, then repeat the change."""

    code = "conflict"


class RunAlreadyEnded(Conflict):
    """Run {run} has ended in this process, so nothing can be added to it. `sexton.resume({run!r})` goes on with it."""

    code = "run_already_ended"


class KeyTaken(Conflict):
    """{place} already has other bytes under the key {key}, and they are not replaced. Use a new key."""

    code = "key_taken"


class FileChanged(Conflict):
    """{path} was written to while it was being saved, so it was not. Save it under a name of its own, or call
    run.flush() before writing to it again."""

    code = "file_changed"


class UploadClosed(Conflict):
    """The upload {upload} is not open: its lease has run out, or it was closed. Open another, and pin everything again
    that is to stay."""

    code = "upload_closed"


class ChunksMissing(Conflict):
    """{count} chunks of {digest} are not here under this upload. Pin them, put those that are missing, commit again."""

    code = "chunks_missing"


class Denied(SextonError, PermissionError):
    """You may not do this: {reason}."""

    code = "denied"


class Unauthenticated(Denied):
    """This server does not know who you are. Set SEXTON_TOKEN to a token of this server."""

    code = "unauthenticated"


class Forbidden(Denied):
    """This needs the permission {permission}, which {actor} does not have."""

    code = "forbidden"


class ForeignOrigin(Denied):
    """The request came with {header}: {value}, which is not this server. Open the address that `sexton serve` printed,
    or name the host with `sexton serve --allow-host`."""

    code = "foreign_origin"


class UnsafeBind(Denied):
    """Refusing to listen on {host}: this store has no accounts, so anyone who can reach the machine could write to it.
    Listen on 127.0.0.1 (the default) and reach it through an SSH tunnel."""

    code = "unsafe_bind"


class CollectionRefused(Denied):
    """Nothing was collected: {reason}."""

    code = "collection_refused"


class Unavailable(SextonError):
    """{what} is not available now: {reason}. Trying again may help."""

    code = "unavailable"
    transient = True


class ServerUnreachable(Unavailable):
    """No Sexton server answers at {url}: {reason}. Records wait on disk until one does; `sexton doctor` counts them."""

    code = "server_unreachable"
    transient = True


class StoreBusy(Unavailable):
    """The store {store} did not get to this in time: {reason}. Trying again may help."""

    code = "store_busy"
    transient = True


class Internal(Unavailable):
    """The server failed in a way that nobody foresaw; its log says more under {id}. Trying again may help."""

    code = "internal"
    transient = True


class Undelivered(Unavailable):
    """{count} records of run {run} are on this machine's disk but after {seconds} s not yet in the store. They are
    safe; `sexton doctor` says what holds them up."""

    code = "undelivered"
    transient = True


class IntegrityError(SextonError):
    """{what} is damaged: {reason}."""

    code = "integrity"


class DigestMismatch(IntegrityError):
    """The bytes sent as {expected} are really {actual}, so they were not stored. Send them again."""

    code = "digest_mismatch"


class StoreTooNew(IntegrityError):
    """The store {store} was written by a newer Sexton (schema {found}; this one knows {known}). Upgrade Sexton here."""

    code = "store_too_new"


class WrongVersion(IntegrityError):
    """The server at {url} speaks version {theirs} of the API, this client {ours}. Upgrade the older of the two."""

    code = "wrong_version"


def wire(error: SextonError) -> dict[str, object]:
    """The one JSON shape of an error: `{"error": {"code", "message", "fields", "transient"}}`."""
    fields = {k: v if isinstance(v, str | int | float | bool | None) else str(v) for k, v in error.fields.items()}
    return {
        "error": {
            "code": error.code,
            "message": str(error),
            "fields": fields,
            "transient": error.transient,
        }
    }
