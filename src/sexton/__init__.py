"""Sexton: one record of every ML run a team makes, and the acts on that record.

import sexton

with sexton.start(experiment="digits", params={"lr": 0.1}) as run:
    run.log({"loss": 0.31, "val/acc": 0.97}, step=10)
"""

from typing import TYPE_CHECKING, Any

from sexton import errors
from sexton.sdk.runs import Run
from sexton.sdk.session import connect, resume, start

__all__ = ["Run", "connect", "errors", "load", "resume", "start"]

if TYPE_CHECKING:
    from sexton.sdk.loading import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from sexton.sdk.loading import load  # the client with it, which training does not need

        return load
    if name == "__version__":
        from importlib.metadata import version  # slow to load, seldom asked

        return version("sexton")
    raise AttributeError(f"module 'sexton' has no attribute {name!r}")
