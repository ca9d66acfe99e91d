"""What any released version left in a spool, this one reads and delivers; and what it writes, others can read."""

import shutil
from pathlib import Path

import msgspec

from sexton.courier.delivery import Delivery
from sexton.journal.journal import identity_of
from tests.golden import journal
from tests.home import Home


def test_a_journal_of_format_1_is_read() -> None:
    told = msgspec.json.decode((journal.HERE / "journal-1.json").read_bytes())
    assert identity_of(journal.FOLDER) == journal.IDENTITY
    assert journal.read(journal.FOLDER) == told


def test_the_same_calls_still_write_the_same_bytes(tmp_path: Path) -> None:
    journal.write(tmp_path / "now")
    written = {path.name: path.read_bytes() for path in (tmp_path / "now").iterdir()}
    assert written == {path.name: path.read_bytes() for path in journal.FOLDER.iterdir()}
    assert len(written) == 5


def test_a_journal_of_format_1_is_delivered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = tmp_path / "spool" / journal.IDENTITY.run
    shutil.copytree(journal.FOLDER, folder)
    delivery = Delivery(folder)
    while parcels := list(delivery.parcels()):
        home.client.ingest([batch for parcel in parcels for batch in parcel.batches])
        delivery.acknowledge(parcels)
    detail = home.client.run(journal.IDENTITY.run)
    assert (detail.run.experiment, detail.run.state, detail.run.exit_code) == ("digits", "failed", 3)
    assert {name: metric.count for name, metric in detail.run.metrics.items()} == {
        "loss": 10,
        "val/acc": 5,
        'acc{"split":"val"}': 5,
        "é": 2,
    }
    assert home.steps(detail.run.id, "loss") == [1, 2, 2, -3, 2**63 - 1, 0.5, None, 7, 8, 1]
    assert [note.text for note in detail.notes] == ["the last whole record"]
    assert detail.run.trouble == {}
    home.close()
