"""What can be asked about: the fields of a run, their kinds, and the keys that the index has them under.

Owns every name a query may use, MLflow's spellings included. A key names one value of a run; two fields never share a
key, whatever people call their metrics. Knows no values.
"""

import re
from typing import Literal

import msgspec

Space = Literal["", "params", "metrics", "tags"]
"""Where a name lives. Without one it is an attribute: what Sexton itself knows of every run."""

Part = Literal["last", "min", "max", "best"]

Kind = Literal["any", "text", "number", "seconds", "bytes", "dollars", "time"]
"""`any`: text in some runs and a number in others. `time` is seconds since 1970, UTC."""

ATTRIBUTES: dict[str, Kind] = {
    "id": "text",
    "name": "text",
    "project": "text",
    "experiment": "text",
    "user": "text",
    "host": "text",
    "state": "text",
    "cause": "text",
    "exit_code": "number",
    "signal": "number",
    "message": "text",
    "created": "time",
    "finished": "time",
    "age": "seconds",
    "seconds": "seconds",
    "cpu_seconds": "seconds",
    "max_rss": "bytes",
    "bytes": "bytes",
    "cost": "dollars",
    "task": "text",
    "tier": "text",
    "sweep": "text",
    "parent": "text",
    "hypothesis": "text",
    "outcome": "text",
    "takeaway": "text",
    "note": "text",
    "command": "text",
    "cwd": "text",
    "commit": "text",
    "tree": "text",
    "dirty": "text",
    "data": "text",
    "config": "text",
    "fingerprint": "text",
    "model": "text",
    "alias": "text",
    "dataset.name": "text",
    "dataset.digest": "text",
    "dataset.context": "text",
}
"""Attributes and their kinds. One that nobody has filled yet is unknown in every run."""

_ALIASES = {
    "run_id": "id",
    "run_name": "name",
    "run name": "name",
    "user_id": "user",
    "status": "state",
    "start_time": "created",
    "started": "created",
    "end_time": "finished",
    "ended": "finished",
    "duration": "seconds",
    "cpu": "cpu_seconds",
    "notes": "note",
    "datasets.name": "dataset.name",
    "datasets.digest": "dataset.digest",
    "datasets.context": "dataset.context",
}
_SPACES: dict[str, Space] = {
    **dict.fromkeys(("params", "param", "parameters", "parameter"), "params"),
    **dict.fromkeys(("metrics", "metric"), "metrics"),
    **dict.fromkeys(("tags", "tag"), "tags"),
    **dict.fromkeys(("attributes", "attribute", "attr", "run"), ""),
}
_KINDS: dict[Space, Kind] = {"params": "any", "metrics": "number", "tags": "text"}
_PART = re.compile(r"(.+)\.(last|min|max|best)", re.DOTALL)
_PLAIN = re.compile(r"[\w\-./]+")


class Field(msgspec.Struct, frozen=True):
    """A value that a run may have. `part` is of metrics alone."""

    space: Space
    name: str
    part: Part = "last"

    @property
    def kind(self) -> Kind:
        """What its values are."""
        return _KINDS[self.space] if self.space else ATTRIBUTES[self.name]

    @property
    def key(self) -> str:
        """Its key in the index: `created`, `params.lr`, `metrics.loss`, `metrics.loss.min`. The last value of a metric
        whose own name ends like a part is `metrics.loss.min.last`, or it would be taken for the least `loss`. `age` is
        read off `created`."""
        if not self.space:
            return "created" if self.name == "age" else self.name
        bare = self.part == "last" and not (self.space == "metrics" and _PART.fullmatch(self.name))
        return f"{self.space}.{self.name}" if bare else f"{self.space}.{self.name}.{self.part}"

    def __str__(self) -> str:
        """How a query names it."""
        if not self.space:
            return self.name
        if _PLAIN.fullmatch(self.name):
            return self.key
        quoted = '"' + self.name.replace('"', '""') + '"'
        return f"{self.space}.{quoted}" if self.part == "last" else f"{self.space}.{quoted}.{self.part}"


def metric_key(name: str, part: Part = "last") -> str:
    """The key that a metric's last, least, greatest or best value has in the index."""
    return Field("metrics", name, part).key


def find(space: str, name: str) -> Field | None:
    """The field that `space.name` means, or with an empty space the attribute; None where there is none. The name is
    taken as it is: a part is not looked for."""
    known = _SPACES.get(space.lower(), "") if space else ""
    if known:
        return Field(known, name) if name else None
    name = f"{space}.{name}" if space and space.lower() not in _SPACES else name
    name = _ALIASES.get(name.lower(), name.lower())
    return Field("", name) if name in ATTRIBUTES else None


def find_path(path: str) -> Field | None:
    """The field that an unquoted path means: what stands before its first dot is the space, and a last `.min`, `.max`,
    `.best` or `.last` of a metric is the part."""
    space, _, name = path.partition(".")
    field = find(space, name) if name else find("", path)
    if field and field.space == "metrics" and (split := _PART.fullmatch(field.name)):
        return part_of(Field("metrics", split[1]), split[2])
    return field


def part_of(field: Field, part: str) -> Field | None:
    """The `part` of a metric; None where the field has no such part."""
    parts: dict[str, Part] = {"last": "last", "min": "min", "max": "max", "best": "best"}
    return Field("metrics", field.name, parts[part]) if field.space == "metrics" and part in parts else None
