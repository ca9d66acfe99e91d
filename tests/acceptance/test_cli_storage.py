"""What stored bytes take and whether they are well, as a person is told it on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import Home

SAVE = """
import random, sexton
with sexton.start(experiment="{experiment}") as run:
    random.seed(1)
    open("model.bin", "wb").write(random.randbytes(300_000))
    for step in range(3):
        run.save("model.bin", kind="checkpoint", step=step)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    home.script(SAVE.format(experiment="digits"))
    yield home
    home.end()


def _packs(home: Home) -> list[Path]:
    return list((home.folder / "home").rglob("*.pack"))


def test_equal_bytes_are_counted_once(home: Home) -> None:
    home.script(SAVE.format(experiment="letters"))
    found = json.loads(home("storage", "--json").stdout)
    assert found["total"]["logical"] == 6 * 300_000
    assert 300_000 <= found["total"]["stored"] < 310_000
    assert {tuple(one["key"]): one["alone"] for one in found["groups"]} == {
        ("default", "digits"): 0,
        ("default", "letters"): 0,
    }
    told = home("storage", "--by", "kind").stdout
    assert "checkpoint" in told
    assert "unpriced" in told
    assert "$" in home("storage", SEXTON_STORAGE_PRICE="0.023").stdout


def test_what_is_damaged_is_told_and_mended_by_saving_it_again(home: Home) -> None:
    (run,) = home.runs()
    assert home("scrub").stdout.startswith("1 pack read")
    (pack,) = _packs(home)
    data = bytearray(pack.read_bytes())
    data[5_000] ^= 1
    pack.write_bytes(data)
    done = home("scrub")
    assert (done.returncode, "model.bin" in done.stdout) == (6, True)
    assert "damaged" in home("files", run.id).stdout
    home.script(SAVE.format(experiment="digits"))
    assert "damaged" not in home("files", run.id).stdout


def test_a_lost_database_is_put_together_again(home: Home) -> None:
    (run,) = home.runs()
    home.end()
    for file in (home.folder / "home").glob("sexton.db*"):
        file.unlink()
    assert "All is well" in home("fsck", "--rebuild").stdout
    home("get", run.id, "model.bin", "--step", "2", "-o", "out")
    assert (home.work / "out" / "model.bin").stat().st_size == 300_000


def test_a_collection_shows_what_it_would_do_and_takes_nothing_that_is_needed(home: Home) -> None:
    home.runs()
    assert "nothing to let go of" in home("collect", "--grace", "0").stdout
    home("collect", "--apply", "--grace", "0")
    assert "All is well" in home("fsck").stdout


def test_a_server_is_not_asked_to_look_after_its_bytes(home: Home) -> None:
    done = home("scrub", "--url", "http://127.0.0.1:9")
    assert (done.returncode, "run it where the server runs" in done.stderr) == (2, True)
