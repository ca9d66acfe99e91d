"""What a user configured: flags > `SEXTON_*` > the nearest `sexton.toml` > defaults, validated once.

The only reader of the environment. Everything else is handed a `Settings`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sexton import errors

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, its unit and its default; `docs/settings.md` is the same list for people."""

    home: str
    """Folder of the spool, and of the store where `url` names no other."""
    url: str
    """The store: `file:PATH`, `postgresql://...`, or `http(s)://SERVER`."""
    blobs: str
    """Place of artifact bytes for a store that this machine opens itself: `file:PATH`, or `s3:`, `gs:` or
    `az://BUCKET/PREFIX`."""
    token: str | None = None
    """Proves to a server who you are."""
    project: str = "default"
    """Project of runs that name none."""
    experiment: str = "default"
    """Experiment of runs that name none."""
    sample_seconds: Seconds = 10.0
    """Seconds between two samples of a run's CPU, memory, IO and GPU use."""
    storage_price: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    """Dollars that a gigabyte (10^9 bytes) costs a month where the bytes are."""
    linger_seconds: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 20.0
    """Seconds the courier stays after the last record was delivered."""
    run: Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{12}$")] | None = None
    """Set by `sexton run` for the command it records: the run that an SDK inside joins."""

    @property
    def spool(self) -> Path:
        """This host's spool: one folder a host, for homes that several hosts mount."""
        return Path(self.home, "spool", os.uname().nodename or "localhost")


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None, **flags: object) -> Settings:
    """The settings in force in `cwd`; a flag that is None was not given. Raises `InvalidSetting` naming the source."""
    environ = os.environ if environ is None else environ
    cwd = _cwd() if cwd is None else cwd
    values, sources = _file(cwd)
    for field in msgspec.structs.fields(Settings):
        variable = f"SEXTON_{field.name.upper()}"
        if environ.get(variable):
            values[field.name], sources[field.name] = environ[variable], variable
        if flags.get(field.name) is not None:
            values[field.name], sources[field.name] = flags[field.name], "the command line"
    _place(values, cwd)
    home = values.setdefault("home", str(_home(environ, cwd)))
    url = values.setdefault("url", f"file:{home}")
    values.setdefault("blobs", f"{url if str(url).startswith('file:') else f'file:{home}'}/blobs")
    for name, (schemes, hint) in _ADDRESSES.items():
        if not str(values[name]).startswith(schemes):
            source = sources.get(name, "sexton.toml")
            raise errors.InvalidSetting(name=name, value=values[name], source=source, reason=hint)
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        raise errors.InvalidSetting(
            name=name,
            value=values.get(name),
            source=sources.get(name, "sexton.toml"),
            reason=str(error),
        ) from None


_ADDRESSES: dict[str, tuple[tuple[str, ...], str]] = {
    "url": (
        ("file:", "http://", "https://", "postgresql://", "postgresql+psycopg://"),
        "a store is file:PATH, postgresql://USER@HOST/DATABASE, or http(s)://SERVER",
    ),
    "blobs": (
        ("file:", "s3://", "gs://", "az://"),
        "a place for bytes is file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
    ),
}


def _place(values: dict[str, Any], folder: Path) -> None:
    """Give paths and addresses among the values one spelling: absolute, seen from `folder`, no slash at the end."""
    for name in ("home", "url", "blobs"):
        value = values.get(name)
        if name == "home" and isinstance(value, str | Path):
            values[name] = str(folder / Path(value).expanduser())
        elif isinstance(value, str) and value.startswith("file:"):
            values[name] = f"file:{folder / Path(value.removeprefix('file:').removeprefix('//')).expanduser()}"
        elif isinstance(value, str):
            values[name] = value.rstrip("/")


def _cwd() -> Path:
    """The working folder; where it was removed, one that has no configuration."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _home(environ: Mapping[str, str], cwd: Path) -> Path:
    """The nearest `.sexton` folder upwards, so that a repository can keep its own record; else the user's."""
    for folder in (cwd, *cwd.parents):
        if (folder / ".sexton").is_dir():
            return folder / ".sexton"
    return Path(environ.get("HOME") or Path.home(), ".sexton")


def _file(cwd: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the nearest `sexton.toml` upwards, and where each came from."""
    for folder in (cwd, *cwd.parents):
        path = folder / "sexton.toml"
        if not path.is_file():
            continue
        import tomllib  # most folders have none, and `import sexton` does not wait for it

        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise errors.InvalidSetting(name="(file)", value=path.name, source=path, reason=str(error)) from None
        unknown = values.keys() - {field.name for field in msgspec.structs.fields(Settings)}
        if unknown:
            name = min(unknown)
            raise errors.InvalidSetting(name=name, value=values[name], source=path, reason="there is no such setting")
        sources = dict.fromkeys(values, str(path))
        _place(values, folder)
        return values, sources
    return {}, {}
