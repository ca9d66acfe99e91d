"""Objects that a user may hand over: they raise whatever is asked of them, or are numbers only by conversion."""

from collections.abc import Iterator, Mapping
from typing import Any


class Hostile:
    """An object that raises whatever is asked of it, and raises what can not be told either."""

    class Untold(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    def _raise(self, *_: object) -> Any:
        raise Hostile.Untold

    __float__ = __index__ = __str__ = __repr__ = __len__ = __iter__ = __getitem__ = __fspath__ = _raise
    __bool__ = _raise


class HostileMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no value")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        return 1


class Scalar:
    """As a torch tensor of one element: a number only by conversion."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value

    def __index__(self) -> int:
        raise TypeError("only integer tensors of a single element can be converted to an index")
