"""For the tests of savers and of programs that use them.

`SaverTests` is what every saver must do: subclass it, say how to make yours and how to read its
files with another library, and pytest runs the rest. `MemorySaver` keeps results in a list.
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._saver import Saver
from savers.errors import ClosedError, InvalidInputError, InvalidTypeError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MemorySaver", "SaverTests"]


class MemorySaver(Saver):
    """Keep results in a list, in the order in which they were saved.

    Attributes
    ----------
    rows : list
        The results.
    closed : bool

    Examples
    --------
    >>> with MemorySaver() as saver:
    ...     saver.save([1.0, 2.0])
    >>> saver.rows
    [1.0, 2.0]
    """

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.closed = False

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        """Keep results; only appends, and takes no settings."""
        if self.closed:
            message = "this MemorySaver is closed; make a new saver"
            raise ClosedError(message)
        if indices is not None:
            message = "a MemorySaver only appends: leave indices out"
            raise InvalidInputError(message)
        for name in kwargs:
            message = f"MemorySaver.save has no keyword {name!r}"
            raise InvalidTypeError(message)
        self.rows.extend(data)

    def close(self) -> None:
        """Take no more; `rows` stay."""
        self.closed = True


class SaverTests:
    """What every saver that keeps arrays in files must do.

    Subclass it as ``class TestMySaver(SaverTests)`` and give `make_saver` and `read`. A format
    that can't do something says so by overriding that test with a test of its own answer.

    Examples
    --------
    >>> class TestZarrSaver(SaverTests):
    ...     def make_saver(self, path, **settings):
    ...         return ZarrSaver(path, **settings)
    ...     def read(self, path, name="dataset"):
    ...         return zarr.open_group(path, mode="r")[name][...]
    """

    @abstractmethod
    def make_saver(self, path: Path, **settings: Any) -> Saver:
        """Return a saver of `path` with these settings (those of `savers.ZarrSaver`)."""

    @abstractmethod
    def read(self, path: Path, name: str = "dataset") -> NDArray[Any]:
        """Return an array of the closed `path`, read without this package."""

    # -- approaches --------------------------------------------------------------------------------

    def save(self, path: Path, data: Any, indices: Any = None, /, **settings: Any) -> None:
        """Save with a saver of its own."""
        with self.make_saver(path, **settings) as saver:
            saver.save(data, indices)

    def expect(self, path: Path, wanted: ArrayLike, name: str = "dataset") -> None:
        """Fail unless the array holds exactly this, dtype included for arrays."""
        found = self.read(path, name)
        np.testing.assert_array_equal(found, wanted)
        if isinstance(wanted, np.ndarray) and wanted.dtype.kind in "biufc":
            assert found.dtype == wanted.dtype.newbyteorder("=")

    def test_append_extends_within_and_across_savers(self, tmp_path: Path) -> None:
        rows = np.arange(24.0).reshape(8, 3)
        with self.make_saver(tmp_path / "out") as saver:
            saver.save(rows[:1])
            saver.save(list(rows[1:4]))
        self.expect(tmp_path / "out", rows[:4])
        self.save(tmp_path / "out", rows[4:])
        self.expect(tmp_path / "out", rows)

    def test_rows_of_every_shape(self, tmp_path: Path) -> None:
        for row in ((), (1,), (2, 3), (2, 1, 2)):
            path = tmp_path / f"out{len(row)}"
            rows = np.arange(3 * int(np.prod(row))).reshape(3, *row)
            self.save(path, rows[:1])
            self.save(path, rows[1:])
            self.expect(path, rows)

    def test_numbers_of_every_dtype(self, tmp_path: Path) -> None:
        for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
            path = tmp_path / f"out-{code.strip('?') or 'b'}"
            rows = np.array([0, 1, 1, 0]).astype(code)
            self.save(path, rows)
            self.expect(path, rows)

    def test_a_mapping_is_one_array_a_name(self, tmp_path: Path) -> None:
        with self.make_saver(tmp_path / "out") as saver:
            saver.save({"u": [1.0, 2.0], "v": [1, 2]})
            saver.save({"v": [3], "u": [3.0]})
        self.expect(tmp_path / "out", np.array([1.0, 2.0, 3.0]), "u")
        self.expect(tmp_path / "out", np.array([1, 2, 3]), "v")

    def test_overwrite_replaces_shape_and_dtype(self, tmp_path: Path) -> None:
        for rows in (np.zeros((4, 2)), np.arange(3), np.ones((2, 2, 2), "f4")):
            self.save(tmp_path / "out", rows, approach="overwrite")
            self.expect(tmp_path / "out", rows)

    def test_update_at_every_kind_of_index_does_what_numpy_does(self, tmp_path: Path) -> None:
        wanted = np.arange(24.0).reshape(6, 4)
        self.save(tmp_path / "out", wanted)
        mask = np.array([True, False, False, True, False, True])
        kinds: tuple[Any, ...] = (
            0, -1, [5, 2], np.array([1]), slice(1, 4), slice(None, None, 2), mask, (2, [0, 3]),
            (slice(2), slice(1, 3)), ([0, 4], [1, 1]), (..., 2),
        )  # fmt: skip
        for number, indices in enumerate(kinds):
            values = np.full(wanted[indices].shape, -1.0 - number)
            self.save(tmp_path / "out", values, indices, approach="update")
            wanted[indices] = values
            self.expect(tmp_path / "out", wanted)

    def test_update_needs_indices_and_an_array(self, tmp_path: Path) -> None:
        with self.make_saver(tmp_path / "out", approach="update") as saver:
            _raises(NotFoundError, saver.save, [1.0], [0])
            _raises(InvalidInputError, saver.save, [1.0])
        assert not (tmp_path / "out").exists()

    # -- refusals ----------------------------------------------------------------------------------

    def test_what_does_not_fit_is_refused_and_changes_no_value(self, tmp_path: Path) -> None:
        rows = np.arange(6).reshape(2, 3)
        self.save(tmp_path / "out", rows)
        with self.make_saver(tmp_path / "out") as saver:
            unfit: tuple[Any, ...] = (
                [1, 2],
                [0.5, 0, 0],
                [2**63, 1, 1],
                [1j, 0, 0],
                ["a", "b", "c"],
            )
            for row in unfit:
                _raises(InvalidInputError, saver.save, [row])
            no_arrays: tuple[Any, ...] = ([None], [[1, 2, None]], object(), np.zeros(2, "i4,i4"))
            for data in no_arrays:
                _raises(InvalidTypeError, saver.save, data)
            _raises(InvalidInputError, saver.save, [[1, 2, 3], [1, 2]])
            _raises(InvalidInputError, saver.save, rows, [0])
            _raises(InvalidTypeError, saver.save, rows, nonsense=1)
        self.expect(tmp_path / "out", rows)
        with self.make_saver(tmp_path / "out", approach="update") as saver:
            for indices in (2, -3, [0, 0], [5], "0", 1.5, (0, 0, 0)):
                _raises(InvalidInputError, saver.save, rows[:1], indices)
        self.expect(tmp_path / "out", rows)

    def test_settings_are_checked_when_a_saver_is_made(self, tmp_path: Path) -> None:
        for name, value in (("approach", "appendd"), ("durability", "x"), ("dataset_name", "../x")):
            _raises(InvalidInputError, self.make_saver, tmp_path / "out", **{name: value})
        _raises(InvalidTypeError, self.make_saver, tmp_path / "out", nonsense=1)
        assert not (tmp_path / "out").exists()

    def test_case_and_blanks_of_the_approach_are_forgiven(self, tmp_path: Path) -> None:
        self.save(tmp_path / "out", [1.0], approach=" Append\n")
        self.expect(tmp_path / "out", [1.0])

    # -- life --------------------------------------------------------------------------------------

    def test_the_caller_may_change_its_memory_at_once(self, tmp_path: Path) -> None:
        block = np.zeros(2)
        with self.make_saver(tmp_path / "out") as saver:
            for number in range(3):
                block[:] = number
                saver.save(block)
                block[:] = -1
        self.expect(tmp_path / "out", [0.0, 0.0, 1.0, 1.0, 2.0, 2.0])

    def test_what_is_flushed_is_there_to_read(self, tmp_path: Path) -> None:
        with self.make_saver(tmp_path / "out") as saver:
            for count in range(1, 4):
                saver.save([float(count)])
                saver.flush()
                self.expect(tmp_path / "out", np.arange(1.0, count + 1))

    def test_a_closed_saver_takes_nothing(self, tmp_path: Path) -> None:
        saver = self.make_saver(tmp_path / "out")
        saver.save([1.0])
        saver.close()
        saver.close()
        _raises(ClosedError, saver.save, [2.0])
        self.expect(tmp_path / "out", [1.0])

    def test_a_pickled_saver_goes_on(self, tmp_path: Path) -> None:
        saver = self.make_saver(tmp_path / "out", dataset_name="energy", dtype="float32")
        saver.save([1.0])
        copy = pickle.dumps(saver)
        saver.close()
        with pickle.loads(copy) as travelled:  # noqa: S301 -- made here
            travelled.save([2.0])
        self.expect(tmp_path / "out", np.array([1.0, 2.0], "f4"), "energy")

    def test_a_saver_that_never_saved_leaves_nothing(self, tmp_path: Path) -> None:
        with self.make_saver(tmp_path / "out") as saver:
            saver.flush()
        assert not list(tmp_path.iterdir())


def _raises(error: type[Exception], call: Any, /, *args: Any, **kwargs: Any) -> None:
    """Fail unless the call raises this error."""
    try:
        call(*args, **kwargs)
    except error:
        return
    message = f"expected {error.__name__} from {args} {kwargs}"
    raise AssertionError(message)
