"""Where labels put values: dimensions by name, cells by label."""

from __future__ import annotations

import numpy as np
import pytest

from savers import CoordinateNotFoundError, InvalidInputError
from savers._values._coordinates import Labels
from savers._values._placement import Axes, cells_of, named_values, runs


@pytest.mark.parametrize(
    "targets", [[0, 1, 2], [2, 1, 0], [4, 0, 1], [1, 3, 5], [5], [3, 2, 7, 8, 0]]
)
def test_runs_put_every_value_at_its_target(targets):
    found = np.full(10, -1)
    values = np.arange(len(targets)) * 10
    for run in runs(np.array(targets)):
        found[run.start : run.stop] = values[run.source]
    expected = np.full(10, -1)
    expected[targets] = values
    np.testing.assert_array_equal(found, expected)


def test_a_permutation_of_neighbours_is_one_run():
    assert len(runs(np.array([4, 2, 3]))) == 1


def test_boxes_of_several_axes_put_every_value_at_its_target():
    targets = [np.array([2, 0]), np.array([1]), np.array([3, 1, 2, 5])]
    values = np.arange(8).reshape(2, 1, 4)
    found = np.full((3, 2, 6), -1)
    for box in cells_of([runs(one) for one in targets]):
        found[tuple(map(slice, box.start, box.stop))] = values[box.source]
    expected = np.full((3, 2, 6), -1)
    expected[np.ix_(*targets)] = values
    np.testing.assert_array_equal(found, expected)


def test_n_d_coordinates_lie_on_index_dimensions():
    lat, lon = np.meshgrid([1.0, 2.0], [3.0, 4.0, 5.0], indexing="ij")
    axes = Axes.of({"time": [1, 2], "lat": lat, "lon": lon})
    assert axes.dims == ("time", "ilat", "ilon")
    assert axes.sizes == {"time": 2, "ilat": 2, "ilon": 3}
    assert axes.grid_dims == {"lat": ("ilat", "ilon"), "lon": ("ilat", "ilon")}


def test_n_d_coordinates_that_do_not_span_a_grid_are_refused():
    with pytest.raises(InvalidInputError, match=r"2 coordinates of shape \(2, 3\) in a row"):
        Axes.of({"lat": np.zeros((2, 3)), "lon": np.zeros(3)})


def test_a_single_label_needs_no_axis():
    axes = Axes.of({"time": np.datetime64("2024-01-01"), "lat": [1.0, 2.0]})
    assert axes.shaped((2,), "a") == (1, 2)
    assert axes.shaped((1, 2), "a") == (1, 2)
    with pytest.raises(InvalidInputError, match=r"\(time, lat\) of shape \(1, 2\)"):
        axes.shaped((3,), "a")


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        (np.array(["2024-01-01", "2024-01-02"], "M8[D]"), np.array(["2024-01-02"], "M8[ns]")),
        (np.array([0, 6], "m8[h]"), np.array([360], "m8[m]")),
        (["a", "b"], np.array(["b"], object)),
        ([0.1, 0.2], [0.2]),
        ([0, 1], np.array([1.0])),
    ],
)
def test_labels_of_another_unit_or_dtype_are_found(labels, given):
    assert Labels.of("x", labels).indices(given).tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "given", "shown"),
    [
        (np.array(["2024-01-01"], "M8[D]"), np.array(["2024-01-01T06"], "M8[h]"), "2024-01-01"),
        ([0.1, 0.2], np.array([0.2], "f4"), "0.2"),
        (["north", "south"], ["nord"], "'north'"),
        (np.array([1], "m8[h]"), np.array([2**62], "m8[D]"), ""),
        (np.array(["2024-01-01"], "M8[D]"), [1.0], ""),
    ],
)
def test_labels_compare_exactly_and_the_error_names_the_nearest(labels, given, shown):
    with pytest.raises(CoordinateNotFoundError) as caught:
        Labels.of("x", labels).indices(given)
    assert f"the nearest is {shown}" in str(caught.value) if shown else True


def test_a_label_twice_in_a_write_is_refused():
    with pytest.raises(InvalidInputError, match="label 2 stands there twice"):
        Labels.of("x", [1, 2, 3]).indices([2, 1, 2])


def test_new_labels_go_behind_the_stored_ones_in_a_common_unit():
    stored = Labels.of("t", np.array(["2024-01-02", "2024-01-01"], "M8[D]"))
    more = Labels.of("t", np.array(["2024-01-01T00:00", "2024-01-01T00:30"], "M8[m]"))
    found = stored.extended(more).values
    assert found.astype("M8[m]").tolist() == [
        *np.array(["2024-01-02", "2024-01-01", "2024-01-01T00:30"], "M8[m]").tolist()
    ]


def test_new_labels_of_another_kind_are_refused():
    with pytest.raises(InvalidInputError, match="got <U1 ones to add"):
        Labels.of("x", [1, 2]).extended(Labels.of("x", ["a"]))


@pytest.mark.parametrize(("x", "names"), [([1], ["a", "b"]), ([1, 2], ["a", "a"]), ([1, 2], "a")])
def test_one_value_for_each_name(x, names):
    if names == "a":
        assert named_values(x, names) == {"a": [1, 2]}
        return
    with pytest.raises(InvalidInputError, match="one array for each name"):
        named_values(x, names)
