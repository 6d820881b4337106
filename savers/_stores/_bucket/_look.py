"""What lies in a bucket, looked at once: the requests of an opening go side by side.

Opening a dataset asks for a dozen small objects, most of which are not there, and for some of them
more than once. One after the other that is a dozen times the latency of the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Look"]


class Look:
    """Objects and listings as they were at one moment, less what was changed since.

    Several threads may find at the same time that something changed.

    Attributes
    ----------
    objects : dict of path to bytes
        None for an object that is not there.
    listings : dict of prefix to paths
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes | None] = {}
        self.listings: dict[str, Sequence[str]] = {}

    def listed(self, prefix: str) -> Sequence[str] | None:
        """Return the paths below a prefix, None where they were not listed."""
        for known, paths in list(self.listings.items()):
            if prefix.startswith(known):
                return [path for path in paths if path.startswith(prefix)]
        return None

    def changed(self, paths: Iterable[str]) -> None:
        """Forget objects, and every listing that they may be in."""
        for path in paths:
            self.objects.pop(path, None)
            for prefix in list(self.listings):
                if path.startswith(prefix):
                    self.listings.pop(prefix, None)
