"""Settings: flags outweigh variables, variables the file, the file defaults; what is wrong is named with its source."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sexton import errors, settings
from sexton.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder in which nobody has configured anything."""
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


def _load(user: Path, cwd: Path | None = None, flags: Mapping[str, object] | None = None, **variables: str) -> Settings:
    environ = {"HOME": str(user)} | {f"SEXTON_{name.upper()}": value for name, value in variables.items()}
    return settings.load(environ, cwd or user, **(flags or {}))


def test_without_configuration_everything_is_in_the_users_folder(home: Path) -> None:
    found = _load(home)
    assert found.home == f"{home}/.sexton"
    assert (found.url, found.blobs) == (f"file:{home}/.sexton", f"file:{home}/.sexton/blobs")
    assert found.spool == home / ".sexton" / "spool" / os.uname().nodename
    assert (found.project, found.experiment, found.token, found.run) == ("default", "default", None, None)


def test_flags_outweigh_variables_variables_the_file_and_the_file_defaults(home: Path) -> None:
    (home / "sexton.toml").write_text('project = "file"\nexperiment = "file"\ntoken = "file"\nsample_seconds = 5\n')
    found = _load(home, flags={"project": "flag", "experiment": None}, project="variable", experiment="variable")
    assert (found.project, found.experiment, found.token, found.sample_seconds) == ("flag", "variable", "file", 5.0)


def test_an_empty_variable_is_as_none(home: Path) -> None:
    assert _load(home, url="", project="").project == "default"


def test_the_nearest_file_upwards_counts(home: Path) -> None:
    inner = home / "a" / "b"
    inner.mkdir(parents=True)
    (home / "sexton.toml").write_text('project = "outer"\nexperiment = "outer"\n')
    (home / "a" / "sexton.toml").write_text('project = "inner"\n')
    found = _load(home, inner)
    assert (found.project, found.experiment) == ("inner", "default")


def test_paths_in_the_file_are_seen_from_the_file(home: Path) -> None:
    """Whichever folder of a repository a script is started in, its record is one."""
    inner = home / "a" / "b"
    inner.mkdir(parents=True)
    (home / "sexton.toml").write_text('home = "record"\nurl = "file:store"\nblobs = "file:bytes"\n')
    found = _load(home, inner)
    assert (found.home, found.url, found.blobs) == (f"{home}/record", f"file:{home}/store", f"file:{home}/bytes")


def test_paths_in_variables_are_seen_from_the_working_folder(home: Path) -> None:
    """The courier works in another folder, so no path may stay relative."""
    found = _load(home, home, home="record", url="file:store", blobs="file:bytes")
    assert (found.home, found.url, found.blobs) == (f"{home}/record", f"file:{home}/store", f"file:{home}/bytes")


def test_a_repository_can_keep_its_own_record(home: Path) -> None:
    repository = home / "project"
    (repository / ".sexton").mkdir(parents=True)
    (repository / "deep" / "er").mkdir(parents=True)
    assert _load(home, repository / "deep" / "er").home == f"{repository}/.sexton"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("file:/srv/record", "file:/srv/record"),
        ("file:///srv/record", "file:/srv/record"),
        ("file:/srv/record/", "file:/srv/record"),
        ("https://sexton.example/", "https://sexton.example"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("postgresql://me@db/record", "postgresql://me@db/record"),
    ],
)
def test_a_store_has_one_spelling(home: Path, given: str, url: str) -> None:
    assert _load(home, url=given).url == url


def test_bytes_are_beside_a_store_of_files_and_in_the_home_of_others(home: Path) -> None:
    assert _load(home, url="file:/srv/record").blobs == "file:/srv/record/blobs"
    assert _load(home, url="postgresql://db/record").blobs == f"file:{home}/.sexton/blobs"


def test_a_tilde_is_the_users_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    assert _load(home, home="~/record", url="file:~/store").home == f"{home}/record"
    assert _load(home, url="file:~/store").url == f"file:{home}/store"


@pytest.mark.parametrize("place", ["s3://bucket/prefix", "gs://bucket", "az://container/prefix"])
def test_bytes_may_be_in_a_bucket(home: Path, place: str) -> None:
    assert _load(home, blobs=f"{place}/").blobs == place


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "mysql://db"),
        ("url", "/srv/record"),
        ("blobs", "ftp://bucket"),
        ("blobs", "s3:"),
        ("sample_seconds", "often"),
        ("sample_seconds", "0"),
        ("sample_seconds", "-1"),
        ("sample_seconds", "nan"),
        ("sample_seconds", "inf"),
        ("linger_seconds", "-1"),
        ("linger_seconds", "inf"),
        ("run", "../../elsewhere"),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_its_source(home: Path, name: str, value: str) -> None:
    with pytest.raises(errors.InvalidSetting) as refused:
        settings.load({"HOME": str(home), f"SEXTON_{name.upper()}": value}, home)
    told = refused.value.fields
    assert (told["name"], told["value"], told["source"]) == (name, value, f"SEXTON_{name.upper()}")
    with pytest.raises(errors.InvalidSetting, match="command line"):
        _load(home, flags={name: value})


def test_a_linger_of_zero_is_allowed(home: Path) -> None:
    assert _load(home, linger_seconds="0").linger_seconds == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("proyect = 'x'", "proyect"),
        ("project = 5", "project"),
        ("sample_seconds = 'x'", "sample_seconds"),
        ("project = ", "sexton.toml"),
        ("\x00", "sexton.toml"),
    ],
)
def test_a_wrong_file_is_named(home: Path, text: str, named: str) -> None:
    (home / "sexton.toml").write_text(text)
    with pytest.raises(errors.InvalidSetting, match=named) as refused:
        _load(home)
    assert str(home / "sexton.toml") in str(refused.value)


def test_a_file_in_no_encoding_is_named(home: Path) -> None:
    (home / "sexton.toml").write_bytes(b"project = '\xff'")
    with pytest.raises(errors.InvalidSetting, match=re.escape(str(home))):
        _load(home)


def test_a_working_folder_that_was_removed_stops_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert settings.load({"HOME": str(home)}).home == f"{home}/.sexton"
