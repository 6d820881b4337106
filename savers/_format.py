"""What a file format has to know; everything else is done once, for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from savers._codecs._choice import ChunkCodec
    from savers._ledger._state import ArrayLayout, State
    from savers._stores._location import Location
    from savers._stores._store import Store

__all__ = ["Facts", "Format", "NewArray"]


@dataclass(frozen=True)
class NewArray:
    """An array that is to be created.

    Parameters
    ----------
    name : str
        Path within the store.
    dtype : numpy.dtype
        Of the values as callers see them (times are times).
    shape : tuple of int
        Extents; 0 for a growing axis.
    chunks, shards : tuple of int, None
        Cells of a chunk; cells of a stored object that holds several chunks.
    dims : tuple of str
    fill_value : object
        None: the format's default for the dtype.
    attributes : mapping
    codecs : mapping
        Settings of the format: ``codecs``, ``compressors``, ``filters``, ...
    growing, cells, rounding, generation
        As in `ArrayLayout`.
    along : str
        The growing dimension that a coordinate array follows, "" for other arrays.
    labels : ndarray or None
        The values of a coordinate array, which are known when it is created.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    dims: tuple[str, ...] = ()
    fill_value: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    codecs: Mapping[str, Any] = field(default_factory=dict)
    growing: bool = True
    cells: tuple[int, ...] = (0,)
    rounding: bool = False
    generation: int = 0
    along: str = ""
    labels: NDArray[Any] | None = None


@dataclass(frozen=True)
class Facts:
    """What a format settled for an array, in a form that can be compared.

    Parameters
    ----------
    chunks, shards : tuple of int, None
        As in `NewArray`.
    attributes : mapping
    codecs : mapping
        What was made of the codec settings, by the format's own names.
    codec_names : tuple of str
        The same for people.
    fill_value : object
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    attributes: Mapping[str, Any]
    codecs: Mapping[str, Any]
    codec_names: tuple[str, ...]
    fill_value: Any


class Format(Protocol):
    """How arrays lie in a store. Stateless: what it must remember is in `ArrayLayout.meta`."""

    @property
    def name(self) -> str:
        """The name of the format, for messages."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords by which users choose codecs."""

    @property
    def timed(self) -> bool:
        """True: what is committed is shown about a second later; False: at flush and close."""

    def open_store(self, location: Location, dataset: str) -> Store:
        """Return where the chunks of a dataset go. Nothing is created.

        Raises
        ------
        FormatError
            Something of another kind lies at the location.
        """

    def documents(self, names: Collection[str]) -> Sequence[str]:
        """Return the keys that are read to learn what the root and some arrays are."""

    def create(self, new: NewArray) -> ArrayLayout:
        """Return the layout of a new array. Nothing is written.

        Raises
        ------
        InvalidInputError
            A setting that this format can't honour.
        """

    def adopt(self, store: Store, name: str) -> tuple[ArrayLayout, tuple[int, ...]] | None:
        """Return layout and shape of an array that is in the store; None where there is none.

        Raises
        ------
        FormatError
            Something else lies there.
        """

    def facts(self, layout: ArrayLayout) -> Facts:
        """Return what was settled for an array."""

    def check_replaceable(self, layout: ArrayLayout, new: ArrayLayout | None = None) -> None:
        """Refuse an array that a new generation of it can't replace in one step.

        Raises
        ------
        InvalidInputError
            The chunks of both would lie under the same keys.
        """

    def check_beside(
        self, store: Store, layout: ArrayLayout, others: Sequence[ArrayLayout]
    ) -> None:
        """Refuse a new array that can't lie in one store with others.

        Raises
        ------
        InvalidInputError
            What they share does not fit.
        """

    def codec(self, layout: ArrayLayout) -> ChunkCodec:
        """Return the codec of an array's stored objects."""

    def fill_value(self, layout: ArrayLayout) -> Any:
        """Return the value of cells that were never written."""

    def chunk_key(self, layout: ArrayLayout, chunk: tuple[int, ...]) -> str:
        """Return where a chunk lies in the store."""

    def read_chunk(self, store: Store, layout: ArrayLayout, chunk: tuple[int, ...]) -> bytes | None:
        """Return the stored object of a chunk, None where there is none."""

    def chunks_in(self, store: Store, layout: ArrayLayout) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yield index and key of the chunk objects of this generation that are in the store."""

    def remove_chunks(self, store: Store, layout: ArrayLayout) -> None:
        """Delete all chunk objects of this generation, of whatever shape they were."""

    def store_id(self, store: Store) -> tuple[bool, str]:
        """Return whether there is a store at all, and the id in its root ("" without one)."""

    def root_attributes(self, store: Store) -> Mapping[str, Any]:
        """Return the attributes of the root; none where they are unreadable."""

    def array_names(self, store: Store) -> Sequence[str]:
        """Return the names of all arrays that readers find, sorted."""

    def create_root(self, store: Store, store_id: str, attrs: Mapping[str, Any]) -> None:
        """Make the root of a store, or note the id in the one that is there."""

    def published(self, store: Store, layout: ArrayLayout) -> tuple[int, ...] | None:
        """Return the shape that readers see now; None where they see another layout or nothing."""

    def publish(
        self,
        store: Store,
        state: State,
        shapes: Mapping[str, tuple[int, ...]],
        attrs: Mapping[str, Any],
        gone: Sequence[str] = (),
    ) -> None:
        """Show arrays to readers in these shapes; the root, which says so for all, comes last."""
