"""Which name was meant: near misses of one that is not known. Knows nothing of what the names are of."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that `name` may be a slip of, likeliest first: the same but for case and separators, longer ones
    that contain it, typing errors."""
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(_fold(one), []).append(one)
    sought = _fold(name)
    near = [sought] if sought in folded else []
    near += sorted((one for one in folded if sought and sought in one), key=lambda one: (len(one), one))[:most]
    near += get_close_matches(sought, folded, most, 0.7)
    return [one for key in dict.fromkeys(near) for one in folded[key]][:most]


def _fold(name: str) -> str:
    return name.lower().translate(_SEPARATORS)


_SEPARATORS = str.maketrans("", "", "_-/. ")
