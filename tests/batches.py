"""Batches as a courier sends them, for the tests of everything that takes them."""

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from sexton.blobs.hashing import hash_of_bytes
from sexton.blobs.packs import PackWriter, unpack
from sexton.client import Client
from sexton.model.artifacts import Chunk, File, Manifest, text_of
from sexton.model.records import Batch, Points, Record, Started, encode
from sexton.model.values import short_id

T0 = 1_750_000_000_000_000_000
"""When the tests' runs began, in UTC ns."""


def new_run() -> str:
    """An id that no other test has."""
    return short_id(secrets.token_bytes(8))


def records(run: str, *facts: Record, first: int = 0, writer: str = "w") -> Batch:
    """Those records, and nothing else."""
    numbered = [(offset, msgspec.Raw(encode(fact))) for offset, fact in enumerate(facts)]
    return Batch(run, writer, 0, first, len(facts), records=numbered)


def started(run: str, experiment: str, **said: str) -> Batch:
    """The beginning of a run."""
    return records(run, Started(at=T0, experiment=experiment, **said))  # type: ignore[arg-type]  # all of them text


def points(run: str, values: dict[str, Sequence[float]], *, first: int = 1, writer: str = "w", step: int = 0) -> Batch:
    """One row for each place in the lists, a millisecond and a step apart."""
    rows = len(next(iter(values.values())))
    block = Points(
        keys=list(values),
        rows=rows,
        seq=np.arange(rows, dtype="<u4").tobytes(),
        at=(T0 + (first + np.arange(rows, dtype="<i8")) * 1_000_000).tobytes(),
        values=np.array(list(values.values()), dtype="<f8").tobytes(),
        steps=(step + np.arange(rows, dtype="<i8")).tobytes(),
        step_kind="int",
    )
    return Batch(run, writer, 0, first, rows, points=[block])


def recipe(*pieces: bytes) -> Manifest:
    """The manifest of a file that is these pieces, each a chunk, one after the other."""
    whole = b"".join(pieces)
    places = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    digest = text_of(hash_of_bytes(whole))
    file = File("", len(whole), digest, [places[piece] for piece in pieces])
    return Manifest(digest, len(whole), [Chunk(hash_of_bytes(piece), len(piece)) for piece in places], [file])


def pack(path: Path, *pieces: bytes) -> Path:
    """Write a pack that has these chunks, as a new file: one that was put is the object itself."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        writer = PackWriter(file)
        for piece in dict.fromkeys(pieces):
            writer.add(hash_of_bytes(piece), piece, 0)
        writer.finish()
    return path


def stored(client: Client, data: bytes) -> str:
    """Store bytes as one chunk that nothing refers to yet; give their digest."""
    upload, manifest = client.open_upload().id, recipe(data)
    with tempfile.TemporaryDirectory() as folder:
        if client.pin(upload, manifest.hashes):
            client.put_pack(upload, "other", pack(Path(folder, "pack"), data))
    client.commit_manifest(upload, manifest)
    client.close_upload(upload)
    return manifest.digest


def fetched(client: Client, digest: str) -> bytes:
    """The bytes of a stored file, each chunk and the whole checked."""
    manifest = client.manifest(digest)
    data = {b"": b""}
    for where in client.locate(manifest.hashes):
        place = where.chunk
        data[place.hash] = unpack(place, client.read_pack(where.pack, place.offset, place.offset + place.stored))
    (file,) = manifest.files
    whole = b"".join(data[manifest.chunks[place].hash] for place in file.chunks)
    assert text_of(hash_of_bytes(whole)) == digest
    return whole
