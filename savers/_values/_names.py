"""Names of arrays: paths within a store that every store can keep."""

from __future__ import annotations

from functools import lru_cache

from savers.errors import InvalidInputError

__all__ = ["check_array_name"]


@lru_cache  # asked anew with every save
def check_array_name(name: object) -> str:
    """Return `name` as the path of an array within a store.

    Raises
    ------
    InvalidInputError
        Not a text, empty, absolute, with ``..``, NUL, backslash or a reserved or over-long part.
    """
    if not isinstance(name, str) or not name:
        message = f"expected the name of an array, got {name!r}"
        raise InvalidInputError(message)
    for part in name.split("/"):
        problem = _problem(part)
        if problem:
            message = f"array name {name!r}: {problem}"
            raise InvalidInputError(message)
    return name


def _problem(part: str) -> str:
    if part in ("", ".", ".."):
        return f"a part can't be {part!r}"
    if part.startswith(("__", ".")) or part == "zarr.json":
        return f"{part!r} is reserved"
    if "\\" in part or not part.isprintable():
        return f"{part!r} holds a character that stores can't keep"
    if len(part.encode("utf-8", "surrogatepass")) > 200:
        return f"a part is longer than 200 bytes: {part[:20]!r}..."
    return ""
