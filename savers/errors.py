"""Every error that `savers` raises on purpose.

Each also inherits the builtin that callers would expect, so ``except ValueError`` or
``except FileNotFoundError`` work as well as the names below.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "BlockingReadError",
    "ClosedError",
    "CoordinateNotFoundError",
    "FormatError",
    "InvalidInputError",
    "LedgerCorruptedError",
    "LedgerMismatchError",
    "NotFoundError",
    "SaverError",
    "StorageError",
    "StoreInUseError",
]


class SaverError(Exception):
    """Base of all errors of this package."""


class InvalidInputError(SaverError, ValueError):
    """Data, an index or a setting does not fit; nothing was changed."""


class InvalidTypeError(InvalidInputError, TypeError):
    """Data that can't become an array at all; nothing was changed."""


class CoordinateNotFoundError(SaverError, KeyError, ValueError):
    """A label is not among the labels of its dimension; nothing was changed."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would show the repr


class AlreadyExistsError(SaverError, FileExistsError):
    """Something is already there under this name."""


class NotFoundError(SaverError, FileNotFoundError):
    """The store or array is not there."""


class ClosedError(SaverError, ValueError):
    """The saver was closed before this call."""


class StorageError(SaverError, OSError):
    """The store refused or lost an operation; what was committed before is intact.

    `errno` and `filename` are those of the operating system where it gave any.
    """


class BlockingReadError(SaverError, RuntimeError):
    """A synchronous read would hold up the event loop that runs; `load_async` does not."""


class StoreInUseError(SaverError):
    """Another driver holds this dataset; the message names it."""


class FormatError(SaverError, ValueError):
    """What lies in the store is not what this saver can work on."""


class LedgerCorruptedError(FormatError):
    """A ledger record before the last one is damaged; nothing was changed."""


class LedgerMismatchError(FormatError):
    """The ledger knows another job or layout than the one that was asked for."""
