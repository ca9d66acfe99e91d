"""What the tensors in a pickle are called, told from its opcodes: nothing in it is imported, called or executed.

The opcodes are walked with a stack of plain lists, each of what an object was made from. It is a guess: what it can not
make out has no name, and no name decides which bytes are stored.
"""

import pickletools
from collections.abc import Iterator
from typing import Any

OPCODES = 300_000
"""Of a longer pickle nothing is told, so that a forged one can not take memory without limit."""

_PATH = 500  # characters; a path is for patterns to match, and a pickle can nest as deep as it is long
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_PAIRS, _PARTS = {"SETITEM", "SETITEMS"}, {"APPEND", "APPENDS", "ADDITEMS", "BUILD"}


class _Item(tuple[Any, Any]):
    """A key of a dict, and its value."""

    __slots__ = ()


class _Storage(list[Any]):
    """What a persistent id was made from: the mark `storage`, a type, a key, a place and a length."""


def storages(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Of each storage that a pickle of torch refers to: its key, its type (`FloatStorage`) and the path of keys that
    leads to it (`optimizer.state.0.exp_avg`), each storage once. Raises `ValueError` where the pickle is not readable.
    """
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", _built(data))]
    while todo:
        path, node = todo.pop()
        if not isinstance(node, list | _Item) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, _Storage):
            yield from _storage(node, path)
        elif isinstance(node, _Item):
            key, value = node
            name = f"{path}.{key}" if path else str(key)
            todo.append((name if isinstance(key, str | int) and len(name) < _PATH else path, value))
        else:
            todo.extend((path, part) for part in reversed(node))


def _storage(node: list[Any], path: str) -> Iterator[tuple[str, str, str]]:
    match node:
        case [["storage", kind, str(key), *_]]:
            # "torch FloatStorage" by one opcode; module and name by another
            words = kind.split() if isinstance(kind, str) else [word for word in kind if isinstance(word, str)]
            yield key, words[-1] if words else "", path


def _built(data: bytes) -> Any:
    """What the pickle is of, as lists of what it was made from."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    try:
        for count, (opcode, value, _) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if count > OPCODES:
                raise ValueError("it is too long")
            if name == "STOP":
                return stack[-1]
            if name == "MARK":
                marks.append(len(stack))
            elif name in _PUTS:
                memo[value] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in _GETS:
                stack.append(memo[value])
            else:
                _step(opcode, value, stack, marks)
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"it is no pickle: {error!r}") from None
    raise ValueError("it does not stop")


def _step(opcode: pickletools.OpcodeInfo, value: Any, stack: list[Any], marks: list[int]) -> None:
    """Take from the stack what an opcode takes, and put there what it was made into."""
    name, before = opcode.name, opcode.stack_before
    adds = name in _PAIRS or name in _PARTS
    start = marks.pop() if pickletools.markobject in before else len(stack) - len(before) + adds
    if start < adds:
        raise IndexError("the stack is empty")
    parts = stack[start:]
    del stack[start:]
    if adds:
        if isinstance(stack[-1], list):
            stack[-1].extend(map(_Item, zip(parts[::2], parts[1::2], strict=False)) if name in _PAIRS else parts)
        return
    made = _Storage(parts) if name == "BINPERSID" else parts
    stack += [value if not before and value is not None else made] * len(opcode.stack_after)
