"""What artifacts take: the bytes that people saved, and those that are stored for them, where each is counted once."""

from typing import Literal

import msgspec

Grouping = Literal["project", "experiment", "user", "kind", "series"]
"""A series is what one run saved under one name."""


class Footprint(msgspec.Struct, frozen=True):
    """What the artifacts of one group take, in bytes."""

    key: tuple[str | None, ...]
    """What the group has in common; None where it is unknown."""
    artifacts: int
    logical: int
    """Of all files, as they were saved."""
    stored: int
    """Of the chunks that they need, each once."""
    alone: int
    """Of those that no other group needs: what would go with this one. The rest of `stored` is shared."""


class Total(msgspec.Struct, frozen=True):
    """What the whole store takes, in bytes."""

    artifacts: int
    logical: int
    stored: int
    """Of the chunks that artifacts need."""
    packs: int
    """Of all packs: with what is on its way, waits for a collection, or can not go while its neighbours stay."""


class Storage(msgspec.Struct, frozen=True):
    """The whole store, and the groups with the most stored bytes."""

    total: Total
    groups: list[Footprint]
