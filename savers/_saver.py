"""The contract of every saver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from savers._jobs import JobLedger

__all__ = ["Saver"]


class Saver(ABC):
    """Persist results. The least a new format needs is `save`; the rest has defaults.

    Defaults work in subclasses that never call ``super().__init__()``.

    Examples
    --------
    >>> class ListSaver(Saver):
    ...     def __init__(self):
    ...         self.rows = []
    ...     def save(self, data, indices=None, **kwargs):
    ...         self.rows.extend(data)
    >>> with ListSaver() as saver:
    ...     saver.save([1.0, 2.0])
    >>> saver.rows
    [1.0, 2.0]
    """

    #: True when `save` takes `indices` / `write` takes coordinates to place data.
    supports_regions: bool = False
    #: True when several processes may write to the same target at once.
    supports_parallel_writes: bool = False

    @abstractmethod
    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        """Save a batch of results.

        Parameters
        ----------
        data : sequence or array, first axis = results
            The results, in order; or a mapping name -> such for savers that keep several arrays.
        indices : optional
            Where the results belong, for savers that can place them.
        **kwargs
            Settings of the format. A saver raises on a name that it does not know.
        """

    def write(
        self,
        x: Any,
        coords: Mapping[str, Any],
        array_name: str | Sequence[str],
    ) -> Any:
        """Write one or several blocks where their coordinates say.

        Raises
        ------
        NotImplementedError
            This saver does not place data by label (`supports_regions` is False).
        """
        message = f"{type(self).__name__} does not place data by label: use save(data)"
        raise NotImplementedError(message)

    def flush(self) -> None:
        """Return once everything saved so far is durable and visible to readers."""

    def close(self) -> None:
        """Flush and let go of every resource. Idempotent; a save after it raises `ClosedError`."""
        self.flush()

    def open_jobs(self, **save_kwargs: Any) -> JobLedger:
        """Open the book of jobs saved here (see `savers.JobLedger`), for task managers.

        The default serves savers that know only `save`: results are passed to it in the order of
        items, and a ledger beside ``self.file_path`` (in memory without one) counts them. A crash
        between a `save` and its record saves that one batch again.

        Parameters
        ----------
        **save_kwargs
            Passed to every `save`.

        Raises
        ------
        StoreInUseError
            Another driver writes here; the text names it.
        """
        from savers._sequential import SequentialLedger

        return SequentialLedger(self, save_kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
