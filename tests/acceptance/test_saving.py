"""What a script saves is in the store as it was when `save` returned, or the run says why it is not."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import sexton
from sexton import errors
from sexton.capture.files import INLINE_BYTES
from sexton.client.transfers import download
from sexton.model.runs import Artifact
from tests.home import Home, until

LARGE = INLINE_BYTES + 1_000_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path)
    for name, value in home.environment.items():
        if name.startswith("SEXTON_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("sexton.capture.files._CLONE", 0)  # as where the file system has no clones
    yield home
    home.close()


def _only(home: Home) -> Artifact:
    (artifact,) = home.only_run().artifacts
    return artifact


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------------------------- saving


def test_a_large_file_that_is_replaced_and_removed(home: Home, tmp_path: Path) -> None:
    data, source = os.urandom(LARGE), tmp_path / "last.pt"
    source.write_bytes(data)
    with sexton.start() as run:
        run.save(source, kind="checkpoint", step=3, metrics={"acc": 0.5})
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").replace(source)
        source.unlink()
    assert list((home.spool / run.id).rglob("*.link")) == []  # finish() has seen to it
    home.emptied()
    artifact = _only(home)
    assert (artifact.name, artifact.kind, artifact.step, artifact.metrics) == ("last.pt", "checkpoint", 3, {"acc": 0.5})
    assert home.bytes_of(artifact.digest) == data
    assert home.only_run().run.trouble == {}


def test_a_large_file_that_is_written_to_is_told_and_never_torn(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "last.pt"
    source.write_bytes(bytes(LARGE))
    with home.no_courier(), sexton.start() as run:
        with run._tending:  # the keeper is busy elsewhere
            run.save(source)
            run.save(source, name="same bytes")
            source.write_bytes(b"x" * LARGE)
            run.save(source, name="the next")
        run.log({"loss": 1.0})
    assert "last.pt was written to while it was being saved" in caplog.text
    home.emptied()
    detail = home.only_run()
    assert [artifact.name for artifact in detail.artifacts] == ["the next"]
    assert home.bytes_of(detail.artifacts[0].digest) == b"x" * LARGE
    assert (detail.run.state, detail.run.trouble["overwritten"]) == ("finished", 4)  # twice told, twice not stored
    assert detail.run.metrics["loss"].count == 1


def test_a_script_killed_before_the_copy_was_made(home: Home, tmp_path: Path) -> None:
    """The courier takes the file itself, if it is as it was."""
    data = os.urandom(LARGE)
    for name in ("kept", "changed"):
        (tmp_path / name).write_bytes(data)
    program = """
        import os, signal, sys, threading
        import sexton
        run = sexton.start()
        run._tending.acquire()
        for path in sys.argv[1:]:
            run.save(path)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with home.no_courier():
        home.run(program, tmp_path / "kept", tmp_path / "changed")
        with (tmp_path / "changed").open("r+b") as file:
            file.write(b"other")
    home.emptied()
    detail = home.only_run()
    assert [artifact.name for artifact in detail.artifacts] == ["kept"]
    assert home.bytes_of(detail.artifacts[0].digest) == data
    assert detail.run.trouble == {"overwritten": 1}


def test_records_do_not_wait_for_files(home: Home, tmp_path: Path) -> None:
    """Here for one that can not be stored for as long as the folder of stored bytes is none."""
    blobs = Path(home.settings.blobs.removeprefix("file:"))
    blobs.parent.mkdir(parents=True)
    blobs.write_text("in the way")
    (tmp_path / "a").write_bytes(b"content")
    run = sexton.start()
    run.log({"loss": 1.0})
    run.save(tmp_path / "a")
    run.log({"loss": 2.0})
    run.finish()
    assert not run.flush(3.0)
    detail = home.only_run()
    assert (detail.run.state, detail.run.metrics["loss"].count, detail.artifacts) == ("finished", 2, [])
    assert home.courier_said().count("\n") < 5
    blobs.unlink()
    home.emptied()
    assert home.bytes_of(_only(home).digest) == b"content"


def test_flush_waits_for_files_too(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(LARGE))
    run = sexton.start()
    run.save(tmp_path / "a")
    assert run.flush()
    assert _only(home).size == LARGE
    until(lambda: not any((home.spool / run.id / "files").iterdir()), "the copy to go")
    run.finish()


def test_a_folder_of_thousands_of_files(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(3_000):
        path = folder / str(number % 50) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number // 2))
    (folder / "empty").touch()
    with sexton.start() as run:
        run.save(folder, kind="data")
        before = _tree(folder)
        for path in (folder / "0").iterdir():
            path.unlink()
    home.emptied()
    artifact = _only(home)
    assert (artifact.name, artifact.kind, artifact.files) == ("data", "data", 3_001)
    assert artifact.digest is not None
    download(home.client, artifact.digest, tmp_path / "back")
    assert _tree(tmp_path / "back") == before


def test_what_of_a_folder_is_not_saved_is_told(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "loop").symlink_to(folder)
    with sexton.start() as run:
        run.save(folder)
        (folder / os.fsdecode(b"\xff")).touch()
        run.save(folder, name="refused")
        run.save(tmp_path / "nothing")
    home.emptied()
    detail = home.only_run()
    assert [(one.name, one.files, one.size) for one in detail.artifacts] == [("folder", 0, 0)]
    assert detail.run.trouble == {"skipped": 1, "empty": 1, "dropped": 2}
    for text in ("loop in", "has no files", r"\xff", "nothing could not be saved: No such file"):
        assert text in caplog.text


def test_tensors_are_written_as_safetensors(home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = np.arange(12.0, dtype="<f4").reshape(3, 4)
    state: dict[str, Any] = {
        "model": {
            "w": weights.T,
            "half": weights.astype("f2"),
            "scalar": np.float64(2.5),
            "big endian": weights.astype(">f4"),
        },
        "optimizer": {"state": {0: {"exp_avg": weights}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "objects": np.array([object()]),
    }
    with sexton.start() as run:
        run.save(state_dict=state)
        run.save(state_dict={"lr": 0.1})
    home.emptied()
    artifact = _only(home)
    (tmp_path / "back").write_bytes(home.bytes_of(artifact.digest))
    back = load_file(tmp_path / "back")
    assert artifact.name == "model.safetensors"
    assert set(back) == {"model.w", "model.half", "model.scalar", "model.big endian", "optimizer.state.0.exp_avg"}
    assert np.array_equal(back["model.w"], weights.T)
    assert np.array_equal(back["model.big endian"], weights)
    assert (back["model.scalar"].shape, float(back["model.scalar"])) == ((), 2.5)
    assert "param_groups.0.lr" in caplog.text
    assert home.only_run().run.trouble == {"skipped": 1, "dropped": 1}


def test_an_optimizer_can_be_left_out(home: Home, tmp_path: Path) -> None:
    tensor = np.random.default_rng(1).random(100_000)
    with sexton.start() as run:
        run.save(state_dict={"model.w": tensor, "optimizer.exp_avg": tensor + 1}, drop="optimizer")
    home.emptied()
    artifact = _only(home)
    (tmp_path / "back").write_bytes(home.bytes_of(artifact.digest))
    back = load_file(tmp_path / "back")
    assert artifact.shed == ("optimizer",)
    assert np.array_equal(back["model.w"], tensor)
    assert not back["optimizer.exp_avg"].any()


def test_a_reference_keeps_where_the_bytes_are(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"content")
    with home.no_courier(), sexton.start() as run:
        run.save(uri="s3://bucket/train.parquet", reference=True, id="v7")
        run.save(uri="s3://bucket/unknown", reference=True, name="other")
        run.save(uri=str(tmp_path / "a"), reference=True)
        run.save(uri=f"file:{tmp_path}/b", reference=True)
        (tmp_path / "b").write_bytes(b"changed")
    home.emptied()
    kept = {one.name: (one.uri, one.digest, one.size) for one in home.only_run().artifacts}
    assert kept["train.parquet"] == ("s3://bucket/train.parquet", "v7", None)
    assert kept["other"] == ("s3://bucket/unknown", None, None)
    assert kept["a"] == (f"file:{tmp_path}/a", "b3:3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e", 7)
    assert kept["b"][1] is None
    assert not (Path(home.settings.home) / "blobs").exists()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"path": __file__, "uri": "s3://x"},
        {"path": __file__, "reference": True},
        {"uri": "s3://x"},
        {"path": __file__, "drop": "weighs"},
        {"path": __file__, "metrics": {"acc": "high"}},
        {"path": 7},
        {"state_dict": 7},
        {"state_dict": {"a": object()}},
    ],
)
def test_what_can_not_be_saved_is_told_and_leaves_nothing(home: Home, given: dict[str, Any]) -> None:
    with home.no_courier(), sexton.start() as run:
        run.save(**given)
        assert list((home.spool / run.id / "files").glob("*")) == []
    home.emptied()
    assert (home.only_run().run.trouble["dropped"], home.only_run().artifacts) == (1, [])


# ------------------------------------------------------------------------------------------------------------- loading


def test_what_was_saved_is_loaded(home: Home, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").write_bytes(b"weights")
    with sexton.start() as run:
        for step in (1, 2):
            (tmp_path / "a").write_text(f"version {step}")
            run.save(tmp_path / "a", step=step)
        run.save(tmp_path / "model")
        run.save(uri="s3://x/y", reference=True)
    assert run.flush()
    assert sexton.load(run, "a").read_text() == "version 2"
    assert sexton.load(run.id[:8], "a", step=1).read_text() == "version 1"
    folder = sexton.load(run, "model")
    assert _tree(folder) == {"w": b"weights"}
    assert sexton.load(run, "model") == folder
    mine = sexton.load(run, "model", to=tmp_path / "mine")
    (mine / "w").write_bytes(b"my own")
    assert _tree(sexton.load(run, "model")) == {"w": b"weights"}
    with pytest.raises(FileExistsError):
        sexton.load(run, "model", to=tmp_path / "mine")
    with pytest.raises(errors.ArtifactNotFound):
        sexton.load(run, "b")
    with pytest.raises(errors.UsageError, match="s3://x/y"):
        sexton.load(run, "y")
    with pytest.raises(errors.RunNotFound):
        sexton.load("nosuchrun000", "b")


@pytest.mark.parametrize("harm", ["write", "replace", "add", "remove"])
def test_a_cache_that_was_written_to_is_not_believed(home: Home, tmp_path: Path, harm: str) -> None:
    (tmp_path / "model").mkdir()
    for name in "ab":
        (tmp_path / "model" / name).write_bytes(b"weights")
    with sexton.start() as run:
        run.save(tmp_path / "model")
    assert run.flush()
    folder = sexton.load(run, "model")
    if harm == "write":
        (folder / "a").chmod(0o600)
        (folder / "a").write_bytes(b"changed")
    elif harm == "add":
        (folder / "c").touch()
    else:
        (folder / "a").unlink()
        if harm == "replace":
            (folder / "a").write_bytes(b"changed")
    assert _tree(sexton.load(run, "model")) == {"a": b"weights", "b": b"weights"}


def test_a_download_into_the_cache_goes_on_after_a_kill(home: Home, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    with sexton.start() as run:
        run.save(tmp_path / "a")
    assert run.flush()
    program = """
        import os, signal, sys
        import sexton
        from sexton.client import transfers
        write, left = transfers._Draft.write, [10]
        def killed(self, *given):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, *given)
        transfers._Draft.write = killed
        sexton.load(sys.argv[1], "a")
    """
    assert home.run(program, run.id).returncode == -9
    assert list((Path(home.settings.home) / "cache").glob(".*")) != []
    assert sexton.load(run, "a").read_bytes() == data


def test_nothing_heavy_is_loaded_by_saving(home: Home) -> None:
    """Files are split, hashed and sent by others than the process that trains."""
    program = """
        import sys
        import sexton
        with sexton.start() as run:
            run.save(sexton.__file__)
        print(*sys.modules)
    """
    loaded = set(home.run(program).stdout.split())
    assert "sexton.sdk.saving" in loaded
    assert not {"blake3", "httpx", "numcodecs", "numpy", "safetensors", "sqlalchemy", "zstandard"} & loaded
