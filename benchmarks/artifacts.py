"""Series of checkpoints stored as Sexton stores them, beside `hf_xet` and a synced copy: bytes kept, and CPU it took.

The files come from `checkpoints.py`. What is measured is the way of the bytes: read, cut, hash, look up, encode, pack,
sync; then from the packs back to files, every chunk and every file verified. The tables of the store are not in it.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import peers
from sexton.blobs import packs
from sexton.blobs.chunking import split
from sexton.blobs.hashing import hash_of_bytes, hasher
from sexton.model.artifacts import CLASSES, PACK_BYTES, PackClass, Packed

SERIES = {
    "frozen": "frozen backbone, head trained",
    "lora": "LoRA, base saved too",
    "adamw": "AdamW, fp32",
    "bf16": "AdamW, bf16",
    "table": "CSV that is appended to",
    "forest": "forest that grows, pickled",
    "rerun": "a run and its re-run, same seed",
    "copies": "epoch, best and last of one state",
}


class Cost(NamedTuple):
    """What something took of the processor, and how long."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Cost":
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, perf_counter())

    def since(self) -> "Cost":
        now = Cost.now()
        return Cost(now.cpu - self.cpu, now.wall - self.wall)


class Stored:
    """A folder of packs, and what is in them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.chunks: dict[bytes, tuple[Path, Packed]] = {}
        self.uploads = 0

    def save(self, path: Path) -> tuple[list[bytes], bytes]:
        """The way that one file takes: its recipe, and its hash."""
        self.uploads += 1
        recipe, whole, new = [], hasher(), _Upload(self, self.uploads)
        with path.open("rb") as file:
            for piece in split(file, path.stat().st_size):
                key = hash_of_bytes(piece.data)
                whole.update(piece.data)
                recipe.append(key)
                if key not in self.chunks and key not in new.keys:
                    new.add(key, piece.data, piece.width, piece.kind)
        new.close()
        return recipe, whole.digest()

    def restore(self, recipe: Iterable[bytes], digest: bytes, path: Path) -> None:
        """The way back. Raises `IntegrityError`; the file is none before it is verified."""
        whole = hasher()
        opened: dict[Path, FileIO] = {}
        with path.open("wb") as target:
            for key in recipe:
                pack, entry = self.chunks[key]
                source = opened.get(pack) or opened.setdefault(pack, pack.open("rb", buffering=0))
                data = packs.unpack(entry, os.pread(source.fileno(), entry.stored, entry.offset))
                whole.update(data)
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
        for source in opened.values():
            source.close()
        if whole.digest() != digest:
            raise AssertionError(f"{path} is not what was stored")


class _Upload:
    """The packs that one file adds, one open a class."""

    def __init__(self, stored: Stored, number: int) -> None:
        self._stored, self._number, self._made = stored, number, 0
        self._open: dict[PackClass, tuple[Path, Any, packs.PackWriter]] = {}
        self.keys: set[bytes] = set()

    def add(self, key: bytes, data: bytes, width: int, kind: PackClass) -> None:
        if kind in self._open and not self._open[kind][2].has_room(len(data)):
            self._finish(kind)
        if kind not in self._open:
            self._made += 1
            path = self._stored.folder / f"{self._number}-{self._made}.pack"
            file = path.open("wb", buffering=1 << 20)
            self._open[kind] = path, file, packs.PackWriter(file)
        self._open[kind][2].add(key, data, width)
        self.keys.add(key)

    def _finish(self, kind: PackClass) -> None:
        path, file, pack = self._open.pop(kind)
        entries, _ = pack.finish()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        assert path.stat().st_size <= PACK_BYTES
        self._stored.chunks |= {entry.hash: (path, entry) for entry in entries}

    def close(self) -> None:
        for kind in CLASSES:
            if kind in self._open:
                self._finish(kind)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _files(series: Path) -> list[Path]:
    return sorted(path for path in series.rglob("*") if path.is_file())


def _sexton(series: Path, folder: Path) -> dict[str, float]:
    files, stored = _files(series), Stored(folder)
    began = Cost.now()
    saved = [stored.save(path) for path in files]
    ingest, kept = began.since(), _bytes(folder)
    began = Cost.now()
    for path in files:
        stored.save(path)
    again, after = began.since(), _bytes(folder)
    began = Cost.now()
    for (recipe, digest), path in zip(saved, files, strict=True):
        stored.restore(recipe, digest, folder / "restored")
        if path is files[-1] and (folder / "restored").read_bytes() != path.read_bytes():
            raise AssertionError(f"{path} came back as other bytes")
    back = began.since()
    assert after == kept, "what is stored already is stored again"
    return {
        "stored": kept,
        "chunks": len(stored.chunks),
        "ingest_cpu": ingest.cpu,
        "ingest_wall": ingest.wall,
        "again_cpu": again.cpu,
        "restore_cpu": back.cpu,
    }


def _copied(series: Path, folder: Path) -> dict[str, float]:
    folder.mkdir()
    began = Cost.now()
    for number, path in enumerate(_files(series)):
        with path.open("rb") as source, (folder / str(number)).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
    cost = began.since()
    return {"stored": _bytes(folder), "ingest_cpu": cost.cpu, "ingest_wall": cost.wall}


XET = """
import resource, sys, time
from hf_xet import XetSession
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
target, *files = sys.argv[1:]
session, began, wall = XetSession(), cpu(), time.perf_counter()
for file in files:
    with session.new_upload_commit(endpoint="local://" + target) as commit:
        commit.start_upload_file(file)
print(cpu() - began, time.perf_counter() - wall)
"""


def _xet(series: Path, folder: Path) -> dict[str, float]:
    """Its own deduplication, into a folder; each file a commit, as each file of Sexton's is an upload."""
    folder.mkdir()
    command = [peers.python("hf-xet"), "-c", XET, str(folder / "xet"), *map(str, _files(series))]
    surroundings = peers.surroundings(folder) | {"HF_XET_TELEMETRY_ENABLED": "false", "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True, timeout=300)
    cpu, wall = map(float, done.stdout.split()[-2:])
    return {"stored": _bytes(folder / "xet"), "ingest_cpu": cpu, "ingest_wall": wall}


WAYS = {"sexton": _sexton, "xet": _xet, "copy": _copied}


def measure(folder: Path, quick: bool, series: Path | None = None) -> list[dict[str, Any]]:
    """Each series in each way, on one machine in one run."""
    if series is None:
        # The plain wheel of torch has gigabytes of what only a GPU needs; a folder of wheels can be named instead.
        if "UV_FIND_LINKS" not in os.environ:
            os.environ.setdefault("UV_TORCH_BACKEND", "cpu")
        series = folder / "series"
        flags = ["--quick"] if quick else []
        script = Path(__file__).with_name("checkpoints.py")
        subprocess.run([peers.python("torch"), "-P", script, series, *flags], check=True)
    results = []
    for name in SERIES:
        ways = {way: run(series / name, folder / f"{name}-{way}") for way, run in WAYS.items()}
        if name in ("rerun", "copies"):  # what counts is what the second adds to the first
            ways["sexton"]["first"] = _first(series / name, folder / f"{name}-first")
        results.append({"series": name, "files": len(_files(series / name)), "bytes": _bytes(series / name), **ways})
        for way in WAYS:
            shutil.rmtree(folder / f"{name}-{way}")
    return results


def _first(series: Path, folder: Path) -> int:
    """Bytes stored of the first run or copy alone."""
    own, stored = series / "a", Stored(folder)
    for path in _files(own) if own.is_dir() else _files(series)[:1]:
        stored.save(path)
    kept = _bytes(folder)
    shutil.rmtree(folder)
    return kept
