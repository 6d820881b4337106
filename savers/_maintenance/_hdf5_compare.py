"""What an HDF5 file shows, against what its ledgers would publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from savers._hdf5._datasets import opened, shown_shape
from savers._hdf5._layout import plain_attributes_of
from savers._hdf5._publish import ID
from savers._session._publishing import shapes
from savers.errors import SaverError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import h5py

    from savers._existing import Existing
    from savers._ledger._state import ArrayState, State

__all__ = ["compare_file"]

Index = tuple[int, ...]


def compare_file(
    existing: Existing,
    states: Sequence[State],
    unpublished: Sequence[State],
    counts: dict[str, int],
) -> Iterator[tuple[str, str, str]]:
    """Yield place, array and problem of what differs.

    Parameters
    ----------
    existing : Existing
    states : sequence of State
        What the ledgers say.
    unpublished : sequence of State
        Those of which readers may not yet see everything.
    counts : dict of str to int
        ``documents`` is raised by what was compared.
    """
    path = existing.location.path
    late = {name for state in unpublished for name in state.arrays}
    if path is None or not path.exists():
        if any(state not in unpublished for state in states):
            yield existing.location.name, "", "the file is gone, only its ledger is there"
        return
    try:
        yield from list(_compare(path, states, late, counts))
    except SaverError as error:
        yield path.name, "", str(error)


def _compare(
    path: Path, states: Sequence[State], late: set[str], counts: dict[str, int]
) -> Iterator[tuple[str, str, str]]:
    with opened(path) as file:
        for state in states:
            if late.isdisjoint(state.arrays):
                yield from _root(file, path.name, state)
            for name, shape in shapes(state).items():
                counts["documents"] += 1
                if name not in late:
                    problem = _problem(file, state.arrays[name], shape)
                    if problem:
                        yield name, name, problem


def _root(file: h5py.File, where: str, state: State) -> Iterator[tuple[str, str, str]]:
    attrs = {n: v for n, v in state.settings.get("attrs", {}).items() if n not in state.arrays}
    problem = _difference(plain_attributes_of(file), {**attrs, ID: state.store_id})
    if problem:
        yield where, "", problem


def _problem(file: h5py.File, array: ArrayState, shape: Index) -> str:
    layout = array.layout
    if layout.name not in file:
        return "missing"
    found = shown_shape(file, layout)
    if found is None:
        return "dtype, chunks, filters or generation are not those of the ledger"
    if found != shape:
        return f"shape is {list(found)}, not {list(shape)}"
    if array.adopted:
        return ""
    return _difference(plain_attributes_of(file[layout.name]), layout.meta["attributes"])


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Other programs may add attributes, not change ours."""
    for name, value in expected.items():
        if name not in found:
            return f"attribute {name!r} is missing"
        if found[name] != value:
            return f"attribute {name!r} is {found[name]!r}, not {value!r}"
    return ""
