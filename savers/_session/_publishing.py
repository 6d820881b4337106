"""From what is committed to what readers see."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from savers._ledger._object_stream import RecordInDoubtError
from savers._stores._store import ChangedError
from savers.errors import LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from savers._format import Format
    from savers._ledger._state import ArrayState, State
    from savers._session._chunk_store import Block, Put
    from savers._session._session import Session
    from savers._stores._store import Store

__all__ = ["Publisher", "is_lagging", "patiently", "refuse_changed", "shapes"]

#: Attempts to change a root document that others change, too.
ROOT_ATTEMPTS = 20

Index = tuple[int, ...]


def shapes(state: State) -> dict[str, Index]:
    """Return the shape in which each array is to be shown.

    A coordinate of a growing dimension is as long as the longest array along it.
    """
    shown = {n: a.extent() for n, a in state.arrays.items() if not a.layout.meta.get("along")}
    for name, array in state.arrays.items():
        if array.layout.meta.get("along"):
            lengths = [shown[n][0] for n in shown if _grows_along(state.arrays[n], name)]
            shown[name] = (max(lengths, default=0),)
    return shown


def _grows_along(array: ArrayState, dimension: str) -> bool:
    return array.layout.growing and array.layout.meta["dims"][:1] == [dimension]


def is_lagging(state: State) -> bool:
    """Return whether readers see less than what is committed."""
    return any(shape != state.arrays[name].published for name, shape in shapes(state).items())


def refuse_changed(fmt: Format, store: Store, where: str, state: State) -> None:
    """Refuse a store whose arrays another program changed.

    Raises
    ------
    LedgerMismatchError
        An array has neither the shape that was published last nor the one before (a crash between
        record and metadata leaves that), or another layout.
    """
    for name, array in state.arrays.items():
        if array.published is None:
            continue
        seen = fmt.published(store, array.layout)
        unpublished = seen is None and (name in state.stale or array.before is None)
        if not unpublished and seen not in (array.published, array.before):
            message = (
                f"{name!r} in {where} was changed by another program: the ledger "
                f"knows shape {array.published}, the store has {seen}. Undo that change, or "
                "move the ledger folder away to go on from what the store has"
            )
            raise LedgerMismatchError(message)


def patiently(change: Callable[[], None]) -> None:
    """Change documents that other writers change, too: where one did, look at them again."""
    for _ in range(ROOT_ATTEMPTS):
        with contextlib.suppress(ChangedError):
            return change()
    return change()


class Publisher:
    """One publication of a session: open chunks, arrays, and last the root that names them all."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.state = session.ledger.state
        self.shapes = shapes(self.state)

    def publish(self) -> None:
        """Show what is committed, and no longer show arrays that were removed."""
        session, store = self.session, self.session.store
        puts = session.chunks.put_all(self._open_chunks(), self.state)
        store.barrier()
        entries = self._entries(puts)
        if entries:
            self._record(entries, puts)
        self.remove_left()
        patiently(self._publish_documents)
        store.barrier()
        self._remove_gone()
        self._remove_stale()

    def remove_left(self) -> None:
        """Before readers are sent there: chunks of commits that failed are no results.

        A record that says nothing shows that nobody took over, who may own these keys by now.
        """
        if self.session.chunks.has_left:
            self.session.ledger.append({"kind": "settings", "settings": {}})
            self.session.chunks.remove_left(self.state)

    def _publish_documents(self) -> None:
        attrs = self.state.settings.get("attrs", {})
        gone = list(self.state.gone)
        store = self.session.store
        with self.session.root_lock():
            self.session.format.publish(store, self.state, self.shapes, attrs, gone)

    def _open_chunks(self) -> Iterator[Block]:
        """Chunks that are shown, but of which something is only in the ledger."""
        for name, shape in self.shapes.items():
            array = self.state.arrays[name]
            for index in array.loose:
                starts = (i * n for i, n in zip(index, array.layout.chunks, strict=True))
                if all(start < size for start, size in zip(starts, shape, strict=True)):
                    yield array, index, self.session.chunk_block(array, index)

    def _entries(self, puts: Sequence[Put]) -> list[Mapping[str, Any]]:
        entries: list[Mapping[str, Any]] = []
        for name, shape in self.shapes.items():
            array = self.state.arrays[name]
            mine = [put.entry() for put in puts if put.id[0] == name]
            if mine or shape != array.published:
                generation = array.layout.generation
                entries.append(
                    {"array": name, "generation": generation, "shape": shape, "chunks": mine}
                )
        return entries

    def _record(self, entries: Sequence[Mapping[str, Any]], puts: Sequence[Put]) -> None:
        """The record comes before the renames: it knows the checksums of what readers will see."""
        chunks = self.session.chunks
        try:
            self.session.ledger.append({"kind": "publish", "arrays": list(entries)})
        except RecordInDoubtError:
            raise
        except BaseException:
            chunks.drop(puts)
            raise
        chunks.stand(puts)
        chunks.rename_staged()
        self.session.store.barrier()

    def _remove_gone(self) -> None:
        """Delete the chunks of arrays that no reader sees any more."""
        for name, layout in list(self.state.gone.items()):
            self.session.format.remove_chunks(self.session.store, layout)
            self.session.ledger.append({"kind": "clean", "gone": name})

    def _remove_stale(self) -> None:
        """Delete the chunks of replaced generations, now that no reader is sent to them."""
        for name, generation in list(self.state.stale.items()):
            array = self.state.arrays.get(name)
            if array is not None and generation >= 0:
                self.session.remove_generation(array.layout, generation)
            self.session.ledger.append({"kind": "clean", "array": name})
