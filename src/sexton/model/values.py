"""Values that must survive every layer exactly: ids, names, params, and numbers that JSON and SQL can't spell.

Params travel and are stored as canonical JSON text, in which what JSON can't say is an object with one `$` key:
`{"$float": "NaN"}`, `{"$int": "92233720368547758080"}`, `{"$bytes": "AAE="}`, `{"$repr": "<Lock>", "$type": "..."}`;
a user's own dict with a key that starts with `$` is `{"$dict": [[key, value], ...]}`. Nothing is coerced silently.
"""

import base64
import dataclasses
import enum
import math
import re
from collections.abc import Mapping, Set
from datetime import date
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec

from sexton import errors

T = TypeVar("T")

RUN_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{12}")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread

MAX_NAME_BYTES = 1_000
MAX_PARAM_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DEPTH = 50  # deeper is no param and no metric but a structure that somebody handed over by mistake
_DECIMAL_BITS = 2_000  # Python refuses to write or read longer integers in decimal


def short_id(entropy: bytes, length: int = 12) -> str:
    """An id of `length` characters, 5 bits each, from at least as much entropy. 12 (60 bits) make a run id."""
    number = int.from_bytes(entropy, "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(length))


def clean_name(name: object) -> str:
    """`name` as a key that can be stored, printed and searched. Control characters become `U+FFFD`; a name over 1,000
    bytes keeps its beginning and ends in a hash of the whole, so that two long names stay two names."""
    text = name if type(name) is str else said(name)
    text = _CONTROL.sub("\ufffd", text) or "(empty)"
    encoded = text.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return text
    head = encoded[: MAX_NAME_BYTES - 20].decode(errors="ignore")
    return f"{head}~{_sha256(encoded)[:16]}"


def clean_text(text: str) -> str:
    """`text` without what UTF-8 or a database can't say: bytes of a command line in another encoding, and NUL."""
    return _utf8(text).replace("\x00", "\ufffd")


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def said(value: object) -> str:
    """`str(value)`, or where that fails its type. Never raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<{type(value).__qualname__}>"


def show(value: object) -> str:
    """`value` as a message can name it: its repr, at most 80 characters of it. Never raises."""
    return clean_name(_plain_repr(value))[:80]


def _sha256(data: bytes) -> str:
    import hashlib  # only what is too long needs it; `import sexton` does not wait for it

    return hashlib.sha256(data).hexdigest()


def flatten(values: Mapping[Any, Any], prefix: str = "", inside: tuple[int, ...] = ()) -> dict[str, Any]:
    """Nested mappings as one level: `{"val": {"acc": 1}}` is `{"val/acc": 1}`. One that holds itself, or is 50 deep, is
    left as it is there. `inside` are the ids of the mappings around this one."""
    flat: dict[str, Any] = {}
    inside = (*inside, id(values))
    for key, value in values.items():
        name = f"{prefix}{said(key)}"
        if isinstance(value, Mapping) and len(inside) < _DEPTH and id(value) not in inside:
            flat |= flatten(value, f"{name}/", inside)
        else:
            flat[name] = value
    return flat


# ----------------------------------------------------------------------------------------------------------- numbers


def spell(number: float) -> float | str:
    """A number as JSON can say it: itself, or "NaN", "Infinity", "-Infinity"."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def unspell(number: float | str) -> float:
    """The number that `spell` wrote."""
    return float(number)


# ------------------------------------------------------------------------------------------------------------ params


def encode_param(value: object) -> str:
    """Any Python value as canonical JSON text; see the module's docstring. Never raises. A value whose text would pass
    1 MiB is kept as its beginning, its length in bytes and its hash."""
    body = msgspec.json.encode(_plain(value, ()))
    text = body.decode()
    if len(body) <= MAX_PARAM_BYTES:
        return text
    cut = {"$cut": text[:1000], "$length": len(body), "$sha256": _sha256(body)}
    return msgspec.json.encode(cut).decode()


def plain(value: object) -> Any:
    """Any Python value as what JSON has; see the module's docstring. Never raises."""
    return _plain(value, ())


def decode_param(text: str) -> Any:
    """The value that `encode_param` wrote; what had no JSON form comes back as its marked object."""
    return thaw(msgspec.json.decode(text))


def thaw(value: Any) -> Any:
    """A decoded param with its `$` objects turned back into Python values."""
    if isinstance(value, list):
        return [thaw(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": text}:
            return float(text)
        case {"$int": text}:
            return int(text, 0)
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$dict": pairs}:
            return {key: thaw(item) for key, item in pairs}
        case {"$repr": _} | {"$cut": _}:
            return value
        case _:
            return {key: thaw(item) for key, item in value.items()}


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    """`value` in what JSON has; `inside` are the ids of the values around it."""
    if value is None or type(value) is bool:
        return value
    if type(value) is str:
        return _utf8(value)
    if len(inside) > _DEPTH or id(value) in inside:
        return _repr(value)
    try:
        return _of_a_kind(value, (*inside, id(value)))
    except Exception:  # noqa: BLE001 - a user's class may raise anything anywhere; a param must not stop training
        return _repr(value)


def _of_a_kind(value: Any, inside: tuple[int, ...]) -> Any:
    """Order of the tests: what is certain first, then what only looks like it."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, inside)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping):
        return _mapping(value, inside)
    if isinstance(value, list | tuple):
        return [_plain(item, inside) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(item, inside) for item in value), key=repr)
    return _foreign(value, inside)


def _number(value: int | float) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": spell(float(value))}
    number = int(value)
    if -(2**63) <= number < 2**63:
        return number
    return {"$int": str(number) if number.bit_length() <= _DECIMAL_BITS else hex(number)}


def _mapping(value: Mapping[Any, Any], inside: tuple[int, ...]) -> Any:
    pairs = [[_utf8(said(key)), _plain(item, inside)] for key, item in value.items()]
    plain = dict(pairs)
    if any(key.startswith("$") for key in plain) or len(plain) < len(pairs):
        return {"$dict": pairs}
    return plain


def _foreign(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, str):  # a subclass, such as numpy.str_
        return _utf8(str.__str__(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, PurePath | date):
        return _utf8(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, inside)
    for method in ("tolist", "item"):  # numpy, torch, jax: what is an array stays one, be it of one element
        unwrap = getattr(value, method, None)
        if callable(unwrap) and not isinstance(value, type):
            try:
                plain = unwrap()
            except (TypeError, ValueError, RuntimeError):
                continue
            if type(plain) is not type(value):
                return _plain(plain, inside)
    return _repr(value)


def _repr(value: object) -> Any:
    kind = type(value)
    return {"$repr": _utf8(_plain_repr(value)[:1000]), "$type": f"{kind.__module__}.{kind.__qualname__}"}


def _plain_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything, and must not stop training
        return f"<repr failed: {type(error).__name__}>"


def bookmark(place: object) -> str:
    """Where a list goes on, as text that a reader hands back unchanged."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode()


def opened_at(after: str | None, kind: type[T]) -> T | None:
    """The place in a `bookmark`; None without one. Raises `InvalidValue`."""
    if after is None:
        return None
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(after), type=kind)
    except (ValueError, msgspec.DecodeError):
        reason = "it is `next` of the page before, unchanged"
        raise errors.InvalidValue(what="the place to go on from", value=after, reason=reason) from None
