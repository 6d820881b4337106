"""Rows that save a stack of equal chunks: who competes in them, and how each is timed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import arrays, labelled
from benchmarks.contender import Contender

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.contender import Figures, Round


@dataclass(frozen=True)
class Stacks:
    """The contenders of one row.

    Parameters
    ----------
    stack : callable
        Returns the stack of a round, of one group.
    figures : callable
        Takes a stack, and the seconds that its saving blocked the caller and took in total.
    suffixes : mapping
        What a group adds to the names of its contenders.
    """

    stack: Callable[[Round, str], arrays.Stack]
    figures: Callable[[arrays.Stack, float, float], Figures]
    suffixes: Mapping[str, str]

    def _timed(self, this: Round, group: str, way: Callable[..., tuple[float, float]]) -> Figures:
        what = self.stack(this, group)
        return self.figures(what, *way(what, this.folder / "out"))

    def _checked(self, this: Round, group: str, check: Callable[..., None]) -> None:
        check(self.stack(this, group), this.folder / "out")

    def entry(
        self, name: str, group: str, way: Any, check: Any, role: Any = "peer", *needs: str
    ) -> Contender:
        run = partial(self._timed, group=group, way=way)
        check = partial(self._checked, group=group, check=check)
        return Contender(name + self.suffixes[group], run, check, role, (group,), needs)

    def zarr(self, group: str) -> tuple[Contender, ...]:
        """Return those that write Zarr."""
        zarr = arrays.check_zarr
        return (
            self.entry("ours", group, arrays.ours, zarr, "ours"),
            self.entry("ours with zarrs", group, arrays.ours_with_zarrs, zarr, "ours", "zarrs"),
            self.entry("ours, behind", group, labelled.ours, zarr, "ours"),
            self.entry("tensorstore", group, arrays.tensors, zarr, "peer", "tensorstore"),
            self.entry("earth2studio", group, labelled.earth2studio, zarr, "peer", *labelled.NEEDS),
            self.entry("zarr", group, arrays.zarr_python, zarr),
            self.entry("zarr with zarrs", group, arrays.zarrs, zarr, "peer", "zarrs"),
        )

    def floor(self, group: str) -> Contender:
        """Return what nobody can be faster than."""
        return self.entry("numcodecs and write", group, arrays.by_hand, arrays.check_zarr, "floor")
