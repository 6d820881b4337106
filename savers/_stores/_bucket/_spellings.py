"""Settings of a store as other libraries spell them, for obstore: known, of no meaning, or refused.

Nothing that was given is passed over in silence: what has a meaning that can't be kept is refused
by name before anything is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FSSPEC", "Given", "Spelling"]

#: What every file system of fsspec takes, and what asks for nothing here: its caches and its loop.
FSSPEC = frozenset({
    "asynchronous", "batch_size", "cache_options", "default_block_size", "default_cache_type",
    "default_fill_cache", "listings_expiry_time", "loop", "max_concurrency", "max_paths",
    "protocol", "skip_instance_cache", "use_listings_cache", "version_aware",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spelling:
    """The names of a library.

    Parameters
    ----------
    where : str
        For messages.
    same : mapping
        Its names, and those of obstore.
    idle : frozenset of str
        Names that ask for nothing here.
    refused : mapping
        Names whose meaning can't be kept, and what to do instead.
    closed : bool
        There are no other names. Otherwise they are obstore's own, which refuses unknown ones.
    """

    where: str
    same: Mapping[str, str]
    idle: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings by their names in obstore, without those that are None.

        Raises
        ------
        InvalidInputError
            A name is refused, or unknown.
        """
        asked = {name: value for name, value in given.items() if value is not None}
        for name, remedy in self.refused.items():
            if asked.pop(name, None):
                message = f"{self.where}[{name!r}] is not supported: {remedy}"
                raise InvalidInputError(message)
        unknown = asked.keys() - self.same.keys() - self.idle
        if self.closed and unknown:
            message = f"{self.where} has no {min(unknown)!r} here"
            raise InvalidInputError(message)
        return {self.same.get(name, name): value for name, value in asked.items()
                if name not in self.idle}  # fmt: skip


class Given:
    """Credentials that were given, as a provider of obstore.

    As mere settings they would be mixed with those of the environment, which obstore reads by
    itself: a session token there, or a key that it asks for first.
    """

    def __init__(self, **credentials: str | None) -> None:
        self.credentials = credentials

    def __call__(self) -> dict[str, Any]:
        return {**self.credentials, "expires_at": None}
