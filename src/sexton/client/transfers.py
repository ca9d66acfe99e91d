"""Artifacts to a store and back, over the verbs of a `Client`: what is new of them is sent, what arrives is verified.

Sending splits files into chunks, asks which of them are not there yet, and sends those, class by class, in packs; then
the manifest. Some tens of megabytes are held at once, whatever the size of the artifact. See docs/spec/packs.md.
"""

import errno
import fcntl
import os
import stat
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, TypeVar, cast

from sexton import errors
from sexton.blobs import hashing
from sexton.blobs.chunking import Piece, split
from sexton.blobs.hashing import hash_of_bytes, hasher
from sexton.blobs.packs import PackWriter, unpack
from sexton.capture.files import Seen, open_taken
from sexton.model.artifacts import Chunk, File, Manifest, PackClass, Where, flaw, text_of

if TYPE_CHECKING:
    from tempfile import _TemporaryFileWrapper

    from sexton.client import Client

T = TypeVar("T")

CLAIM_BYTES = 64 << 20
"""What is smaller is hashed first, and not split where the store has it."""

HELD_BYTES = 64 << 20
HELD_CHUNKS = 16_384
"""So much is held while the store is asked which of it is new."""

READ_BYTES = 8 << 20
"""Of a pack, so much is read at once, and what is to be left out of it between two chunks is read too, if small."""

_GAP_BYTES = 64 << 10
_READERS = 4
_WINDOW = 65_536  # chunks whose places are asked for at once
_MANY = 1_000  # files: a sync of everything takes less than one of each
_TRIES = 3


class Source(NamedTuple):
    """A file to send: its path in the artifact (empty where it is all of it), and as what it was taken."""

    path: str
    target: Path
    seen: Seen


class Sent(NamedTuple):
    """What the store has now."""

    digest: str
    size: int
    shed: tuple[PackClass, ...]


def upload(
    client: "Client",
    upload: str,
    sources: Sequence[Source],
    work: Path,
    drop: Collection[str] = (),
) -> Sent:
    """Store an artifact under an open upload: one file whose path is empty, or the files of a folder in their order.
    Packs are made in the folder `work`. Chunks of the classes to `drop` become gaps.

    Raises `FileChanged`, `UploadClosed`, `FileNotFoundError`, and what the verbs of the client raise.
    """
    if not drop and sum(source.seen.size for source in sources) <= CLAIM_BYTES:
        found = [_hashed(source) for source in sources]
        digest = digest_of(found)
        if client.claim(upload, [digest]):
            return Sent(digest, sum(file.size for file in found), ())
    for _ in range(_TRIES - 1):
        try:
            return _send(client, upload, sources, work, drop)
        except errors.ChunksMissing:  # damaged, or lost, since they were pinned
            continue
    return _send(client, upload, sources, work, drop)


def digest_of(files: Sequence[File]) -> str:
    """The digest of an artifact: of its one file, or of the list of its files."""
    if [file.path for file in files] == [""]:
        return files[0].digest
    lines = (f"{file.path}\0{file.size}\0{file.digest}\n" for file in files)
    return text_of(hash_of_bytes("".join(lines).encode()))


# ------------------------------------------------------------------------------------------------------------ sending


class _Packs:
    """Chunks on their way: held until the store has said which are new, then in packs until those are full."""

    def __init__(self, client: "Client", upload: str, work: Path) -> None:
        self._client, self._upload, self._work = client, upload, work
        self._held: dict[bytes, Piece] = {}
        self._bytes = 0
        self._known: set[bytes] = set()  # by their hashes: here, or in a pack
        self._packs: dict[PackClass, tuple[_TemporaryFileWrapper[bytes], PackWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, _writer in self._packs.values():
            file.close()

    def add(self, piece: Piece) -> Chunk:
        """Take a piece of a file as a chunk."""
        chunk = Chunk(hash_of_bytes(piece.data), len(piece.data))
        if chunk.hash not in self._known and chunk.hash not in self._held:
            self._held[chunk.hash] = piece
            self._bytes += chunk.size
            if self._bytes >= HELD_BYTES or len(self._held) >= HELD_CHUNKS:
                self._sort_out()
        return chunk

    def finish(self) -> None:
        """Send all that is left."""
        self._sort_out()
        for kind in list(self._packs):
            self._put(kind)

    def _sort_out(self) -> None:
        """Keep of what is held what the store does not have."""
        if not self._held:
            return
        missing = set(self._client.pin(self._upload, list(self._held)))
        for name, piece in self._held.items():
            if name not in missing:
                continue
            if piece.kind in self._packs and not self._packs[piece.kind][1].has_room(len(piece.data)):
                self._put(piece.kind)
            if piece.kind not in self._packs:
                file = NamedTemporaryFile(dir=self._work, suffix=".pack")  # noqa: SIM115 - closed when it was put
                self._packs[piece.kind] = file, PackWriter(cast(BinaryIO, file))
            self._packs[piece.kind][1].add(name, piece.data, piece.width)
        self._known.update(self._held)
        self._held.clear()
        self._bytes = 0

    def _put(self, kind: PackClass) -> None:
        file, writer = self._packs.pop(kind)
        with file:
            writer.finish()
            file.flush()
            self._client.put_pack(self._upload, kind, Path(file.name))


def _send(client: "Client", upload: str, sources: Sequence[Source], work: Path, drop: Collection[str]) -> Sent:
    with _Packs(client, upload, work) as packs:
        parts = [_part(source, packs, drop) for source in sources]
        packs.finish()
    places: dict[Chunk, int] = {}
    files = [
        File(part.path, part.size, part.digest, [places.setdefault(one, len(places)) for one in part.chunks])
        for part in parts
    ]
    shed: list[PackClass] = sorted({kind for part in parts for kind in part.shed})
    manifest = Manifest(digest_of(files), sum(file.size for file in files), list(places), files, shed)
    client.commit_manifest(upload, manifest)
    return Sent(manifest.digest, manifest.size, tuple(shed))


class _Part(NamedTuple):
    """A file that was read."""

    path: str
    size: int
    digest: str
    chunks: list[Chunk]
    shed: set[PackClass]


def _part(source: Source, packs: "_Packs", drop: Collection[str]) -> _Part:
    def read(file: BinaryIO, size: int) -> _Part:
        whole = hasher()
        chunks: list[Chunk] = []
        shed: set[PackClass] = set()
        for piece in split(file, size):
            if piece.kind in drop:
                shed.add(piece.kind)
                whole.update(bytes(len(piece.data)))
                chunks.append(Chunk(b"", len(piece.data)))
            else:
                whole.update(piece.data)
                chunks.append(packs.add(piece))
        return _Part(source.path, size, text_of(whole.digest()), chunks, shed)

    return _read(source, read)


def _hashed(source: Source) -> File:
    return _read(source, lambda file, size: File(source.path, size, hashing.digest_of(file), []))


def _read(source: Source, read: Callable[[BinaryIO, int], T]) -> T:
    """What `read` makes of a file that is as it was taken. Raises `FileChanged`, `FileNotFoundError`."""
    for _ in range(2):  # of a link that was written to there may be a copy by now
        file, linked = open_taken(source.target)
        with file:
            try:
                made = read(file, os.fstat(file.fileno()).st_size)
            except errors.IntegrityError:  # it has become shorter
                if not linked:
                    raise
                continue
            if not linked or Seen.of(file.fileno()) == source.seen:
                return made
    raise errors.FileChanged(path=source.path or source.target.name)


# ---------------------------------------------------------------------------------------------------------- receiving


def download(
    client: "Client", digest: str, target: Path, arrived: Callable[[int], None] = lambda _size: None
) -> Manifest:
    """Make `target` the artifact, a file or a folder: on return all of it is there, verified and durable.

    What an earlier call that was interrupted left there is verified and kept. Only `target` is written to, and nothing
    that a name or a link in it leads to. `arrived` is told of bytes.

    Raises `BlobNotFound`, `IntegrityError`, `Unavailable` where somebody else is at it, `OSError`.
    """
    manifest = manifest_of(client, digest)
    with _Draft(target, manifest) as draft:
        wanted = draft.wanted(arrived)
        for part in _parts(list(wanted), _WINDOW):
            try:
                _fetch(client, manifest.digest, part, wanted, draft, arrived)
            except errors.BlobNotFound:  # a pack that was there when we asked where is not any more: ask again
                _fetch(client, manifest.digest, part, wanted, draft, arrived)
        draft.check()
    return manifest


def manifest_of(client: "Client", digest: str) -> Manifest:
    """The recipe of an artifact, fit to be followed. Raises `BlobNotFound`, `IntegrityError`."""
    manifest = client.manifest(digest)
    reason = flaw(manifest)
    if reason is None and (manifest.digest != digest or digest_of(manifest.files) != digest):
        reason = "it is that of other bytes"
    if reason is not None:
        raise errors.IntegrityError(what=f"The manifest of {digest}", reason=reason)
    return manifest


_Wanted = dict[bytes, list[tuple[int, int]]]
"""By the hash of a chunk: the files, as places in the manifest, and the offsets there that it belongs to."""


def _fetch(
    client: "Client",
    digest: str,
    part: Collection[bytes],
    wanted: _Wanted,
    draft: "_Draft",
    arrived: Callable[[int], None],
) -> None:
    left = [name for name in part if name in wanted]
    found = [where for where in client.locate(left) if where.chunk.hash in wanted]
    if len({where.chunk.hash for where in found}) < len(left):
        raise errors.BlobNotFound(digest=digest)
    for where, stored in _read_all(client, found):
        try:
            data = unpack(where.chunk, stored, f"The artifact {digest}")
        except errors.IntegrityError as error:
            with suppress(errors.SextonError):  # what matters here is that it is damaged, not who is told
                client.doubt([where.chunk.hash])
            reason = f"{error.fields['reason']}. Saving the same bytes again repairs it"
            raise errors.IntegrityError(what=error.fields["what"], reason=reason) from None
        for place, offset in wanted.pop(where.chunk.hash):
            draft.write(place, offset, data)
            arrived(len(data))


def _read_all(client: "Client", found: Iterable[Where]) -> Iterator[tuple[Where, bytes]]:
    """The stored bytes of chunks, read a few ranges ahead."""

    def read(run: list[Where]) -> bytes:
        return client.read_pack(run[0].pack, run[0].chunk.offset, _end(run[-1]))

    runs = _runs(found)
    with ThreadPoolExecutor(_READERS) as readers:
        ahead = deque((run, readers.submit(read, run)) for run in islice(runs, _READERS))
        while ahead:
            run, bytes_ = ahead.popleft()
            data = memoryview(bytes_.result())
            ahead.extend((more, readers.submit(read, more)) for more in islice(runs, 1))
            start = run[0].chunk.offset
            for where in run:
                yield where, bytes(data[where.chunk.offset - start : _end(where) - start])


def _runs(found: Iterable[Where]) -> Iterator[list[Where]]:
    """Chunks that lie near each other in a pack, as many as are to be read at once."""
    run: list[Where] = []
    for where in sorted(found, key=lambda one: (one.pack, one.chunk.offset)):
        near = run and where.pack == run[0].pack and where.chunk.offset - _end(run[-1]) <= _GAP_BYTES
        if run and not (near and _end(where) - run[0].chunk.offset <= READ_BYTES):
            yield run
            run = []
        run.append(where)
    if run:
        yield run


def _end(where: Where) -> int:
    return where.chunk.offset + where.chunk.stored


def _parts(names: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(names), size):
        yield names[first : first + size]


class _Draft:
    """The files of an artifact on their way to `target`, which nobody else writes to while this is entered."""

    def __init__(self, target: Path, manifest: Manifest) -> None:
        self._target, self._manifest = target, manifest
        self._single = [file.path for file in manifest.files] == [""]
        self._opened = -1, -1  # the file at hand: its place, its descriptor

    def __enter__(self) -> Self:
        folder = self._target.parent if self._single else self._target
        if not self._single:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        self._folder = os.open(folder, _FOLDER | (0 if self._single else os.O_NOFOLLOW))
        try:
            fcntl.flock(self._at(0) if self._single else self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__()
            reason = "another process is fetching it to the same place"
            raise errors.Unavailable(what=str(self._target), reason=reason) from None
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._opened[1], self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._opened = -1, -1

    def write(self, place: int, offset: int, data: bytes) -> None:
        """Write bytes of a file."""
        descriptor, rest = self._at(place), memoryview(data)
        while rest:
            done = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[done:], offset + done

    def wanted(self, arrived: Callable[[int], None]) -> _Wanted:
        """What is not there yet, all files having their sizes."""
        wanted: _Wanted = defaultdict(list)
        chunks = self._manifest.chunks
        for place, file in enumerate(self._manifest.files):
            descriptor = self._at(place)
            resumed = os.fstat(descriptor).st_size > 0
            os.ftruncate(descriptor, file.size)
            offset = 0
            for chunk in (chunks[number] for number in file.chunks):
                if self._holds(descriptor, offset, chunk) if resumed else not chunk.hash:
                    arrived(chunk.size)
                elif chunk.hash:
                    wanted[chunk.hash].append((place, offset))
                else:
                    self.write(place, offset, bytes(chunk.size))
                offset += chunk.size
        return dict(wanted)

    def check(self) -> None:
        """See that the files are what they should be, and make them durable. Raises `IntegrityError`."""
        many = len(self._manifest.files) > _MANY
        for place, file in enumerate(self._manifest.files):
            descriptor = self._at(place)
            with open(descriptor, "rb", closefd=False) as bytes_:
                actual = hashing.digest_of(bytes_)
            if actual != file.digest:
                raise errors.IntegrityError(what=f"The artifact {self._manifest.digest}", reason=f"it gives {actual}")
            if not many:
                os.fsync(descriptor)
        if many:
            os.sync()

    @staticmethod
    def _holds(descriptor: int, offset: int, chunk: Chunk) -> bool:
        data = os.pread(descriptor, chunk.size, offset)
        return hash_of_bytes(data) == chunk.hash if chunk.hash else not any(data)

    def _at(self, place: int) -> int:
        """A file, open."""
        if self._opened[0] == place:
            return self._opened[1]
        if self._opened[1] >= 0:
            os.close(self._opened[1])
            self._opened = -1, -1
        path = self._target.name if self._single else self._manifest.files[place].path
        self._opened = place, _open_below(self._folder, path.split("/"))
        return self._opened[1]


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _open_below(folder: int, parts: Sequence[str]) -> int:
    """A file below an open folder, made where there is none, by no way that leads out of it. Raises `OSError`."""
    if len(parts) == 1:
        return _open_file(folder, parts[0])
    with suppress(FileExistsError):
        os.mkdir(parts[0], 0o700, dir_fd=folder)
    below = os.open(parts[0], _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        return _open_below(below, parts[1:])
    finally:
        os.close(below)


def _open_file(folder: int, name: str) -> int:
    descriptor = os.open(name, _FILE, 0o600, dir_fd=folder)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EEXIST, "something else is there", name)
