"""How a store is reached: the version of the API, and what a store says about itself."""

import msgspec

API_VERSION = 1
"""Of the paths, bodies and meanings of the HTTP API. Grows only when an older client would be misled."""


class Greeting(msgspec.Struct, frozen=True):
    """What a server tells anybody: enough to know that it lives and whether to talk to it."""

    version: str
    api: int


class Health(msgspec.Struct, frozen=True):
    """Which store answers, how far it is, and who it takes the caller for."""

    version: str
    """Of the Sexton that answers."""
    api: int
    store: str
    """`sqlite` or `postgresql`."""
    store_id: str
    """Made once with the store: two addresses with the same id are one store."""
    revision: int
    actor: str
