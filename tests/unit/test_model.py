from __future__ import annotations

import numpy as np
import pytest

from taskmanager.demo._model import EARTH_ROTATION, BarotropicModel
from taskmanager.demo._states import analysis, perturbation
from taskmanager.demo._transform import EARTH_RADIUS, SphericalTransform, legendre

DAY = 86400.0
TIMES = np.arange("2025-01-15", "2026-01-15", 91, dtype="datetime64[D]")[:4]


@pytest.fixture(scope="module")
def transform():
    return SphericalTransform()


@pytest.fixture(scope="module")
def state(transform):
    noise = perturbation(transform, np.random.default_rng(1), 1.5)
    return analysis(transform, TIMES[0]) + noise


def random_coefficients(transform, seed=0):
    size = transform.truncation + 1
    real, imaginary = np.random.default_rng(seed).normal(size=(2, size, size))
    coefficients = np.triu(real + 1j * imaginary)
    coefficients[0] = coefficients[0].real
    return coefficients


def area_mean(transform, field):
    weight = np.polynomial.legendre.leggauss(len(transform.lat))[1] / 2
    return field.mean(-1) @ weight


def test_grid_of_t21_is_32_by_64_and_has_the_gaussian_latitudes(transform):
    assert (len(transform.lat), len(transform.lon)) == (32, 64)
    assert np.all(np.diff(transform.lat) > 0)
    np.testing.assert_allclose(transform.lat, -transform.lat[::-1], atol=1e-12)
    assert transform.lat[-1] == pytest.approx(85.76, abs=0.01)  # as in tables of the T21 grid
    assert np.diff(transform.lon) == pytest.approx(360 / 64)


def test_legendre_functions_are_orthonormal(transform):
    value, _ = legendre(transform.truncation, transform.sine)
    weight = np.polynomial.legendre.leggauss(len(transform.lat))[1] / 2
    for m in range(transform.truncation + 1):
        gram = np.einsum("l,ln,lk->nk", weight, value[m], value[m])
        expected = np.diag(np.arange(transform.truncation + 1) >= m).astype(float)
        np.testing.assert_allclose(gram, expected, atol=1e-12)


def test_legendre_functions_and_slopes_have_their_closed_forms():
    mu = np.linspace(-0.9, 0.9, 7)
    value, slope = legendre(3, mu)
    np.testing.assert_allclose(value[0, :, 1], np.sqrt(3) * mu, atol=1e-14)
    np.testing.assert_allclose(value[0, :, 2], np.sqrt(5) * (3 * mu**2 - 1) / 2, atol=1e-14)
    np.testing.assert_allclose(slope[0, :, 2], np.sqrt(5) * 3 * mu * (1 - mu**2), atol=1e-14)
    np.testing.assert_allclose(value[1, :, 1], np.sqrt(1.5) * np.sqrt(1 - mu**2), atol=1e-14)


def test_round_trip_is_exact_to_1e_10(transform):
    coefficients = random_coefficients(transform)
    again = transform.analyse(transform.synthesise(coefficients))
    assert np.abs(again - coefficients).max() < 1e-10
    field = transform.synthesise(coefficients)
    np.testing.assert_allclose(transform.synthesise(again), field, atol=1e-10)


def test_leading_axes_are_transformed_together(transform):
    one, two = random_coefficients(transform, 1), random_coefficients(transform, 2)
    both = transform.flow(np.stack([one, two]))
    np.testing.assert_array_equal(both[:, 0], transform.flow(one))
    np.testing.assert_array_equal(both[:, 1], transform.flow(two))


def test_wind_has_the_vorticity_it_came_from_and_no_divergence(transform):
    vorticity = random_coefficients(transform) * 1e-5
    vorticity[0, 0] = 0
    _, u, v = transform.flow(vorticity)
    assert np.abs(transform.curl(u, v) - vorticity).max() < 1e-10 * np.abs(vorticity).max()
    assert np.abs(transform.convergence(u, v)).max() < 1e-10 * np.abs(vorticity).max()


def test_solid_rotation_has_the_wind_of_its_angular_velocity(transform):
    omega = 1e-5
    vorticity = transform.analyse(2 * omega * transform.sine[:, None] + 0 * transform.lon)
    _, u, v = transform.flow(vorticity)
    expected = omega * EARTH_RADIUS * np.cos(np.radians(transform.lat))[:, None]
    np.testing.assert_allclose(u, expected + 0 * u, rtol=1e-12)
    assert np.abs(v).max() < 1e-10


def test_energy_and_enstrophy_are_global_means_of_the_fields(transform, state):
    model = BarotropicModel(transform)
    zeta, u, v = transform.flow(state)
    assert model.energy(state) == pytest.approx(area_mean(transform, (u**2 + v**2) / 2))
    assert model.enstrophy(state) == pytest.approx(area_mean(transform, zeta**2 / 2))


@pytest.mark.parametrize("time", TIMES)
def test_inviscid_energy_and_enstrophy_are_conserved_over_five_days(transform, time):
    model = BarotropicModel(transform)
    start = analysis(transform, time) + perturbation(transform, np.random.default_rng(7), 1.5)
    end = model.advance(start, round(5 * DAY / model.step))
    assert np.abs(end - start).max() > 1e-6  # something happened
    for invariant in (model.energy, model.enstrophy):
        assert invariant(end) == pytest.approx(invariant(start), rel=1e-3)
    assert end[0, 1] == pytest.approx(start[0, 1], rel=1e-10)  # angular momentum
    assert abs(end[0, 0]) < 1e-18  # no vorticity of the whole globe


@pytest.mark.parametrize(("m", "n"), [(4, 5), (1, 3), (3, 8), (6, 6)])
def test_rossby_haurwitz_wave_moves_at_its_phase_speed(transform, m, n):
    model, omega, days = BarotropicModel(transform), 5e-6, 2
    state = np.zeros((22, 22), complex)
    state[0, 1] = 2 * omega / np.sqrt(3)
    state[m, n] = 1e-5
    end = model.advance(state, round(days * DAY / model.step))
    # Haurwitz, J. Mar. Res. 3 (1940): exact for any amplitude
    expected = omega - 2 * (EARTH_ROTATION + omega) / (n * (n + 1))
    turned = -np.angle(end[m, n] * np.exp(1j * m * expected * days * DAY)) / m
    speed = expected + turned / (days * DAY)
    assert speed == pytest.approx(expected, rel=0.02)
    assert abs(end[m, n]) == pytest.approx(1e-5, rel=1e-3)  # and keeps its shape
    end[m, n] = end[0, 1] = 0
    assert np.abs(end).max() < 1e-8


def test_halving_the_step_divides_the_error_by_sixteen(transform, state):
    def end(step):
        return BarotropicModel(transform, step=step).advance(state, round(DAY / step))

    exact = end(450.0)
    coarse, fine = (np.abs(end(step) - exact).max() for step in (7200.0, 3600.0))
    assert coarse / fine == pytest.approx(16, rel=0.25)


def test_damping_takes_the_smallest_scale_and_spares_the_largest(transform):
    model = BarotropicModel(transform, damping=DAY, rotation=0.0)
    state = np.zeros((22, 22), complex)
    state[0, [1, 21]] = 1e-5  # zonal flow is steady
    end = model.advance(state, round(DAY / model.step))
    assert end[0, 21].real == pytest.approx(1e-5 * np.exp(-1), rel=1e-6)
    assert end[0, 1].real == pytest.approx(1e-5, rel=1e-6)


def test_perturbation_has_the_wind_and_the_red_spectrum_it_says(transform):
    model = BarotropicModel(transform)
    draws = [perturbation(transform, np.random.default_rng(k), 1.5) for k in range(200)]
    assert np.mean([2 * model.energy(draw) for draw in draws]) == pytest.approx(1.5**2, rel=0.05)
    variance = np.mean(np.abs(draws) ** 2, axis=0)
    energy = (variance[0] + 2 * variance[1:].sum(0))[4:] / -transform.laplacian[4:]
    slope = np.polyfit(np.log(transform.degree[4:]), np.log(energy), 1)[0]
    assert slope == pytest.approx(-3, abs=0.2)


def test_fields_are_real_functions_of_the_noise(transform):
    first, again = (perturbation(transform, np.random.default_rng(5), 1.5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    round_trip = transform.analyse(transform.synthesise(first))
    np.testing.assert_allclose(round_trip, first, atol=1e-10 * np.abs(first).max())


def test_jet_of_the_winter_hemisphere_is_the_stronger_one(transform):
    def jets(time):
        u = transform.flow(analysis(transform, np.datetime64(time)))[1].mean(-1)
        return u[transform.lat < 0].max(), u[transform.lat > 0].max()

    south, north = jets("2025-01-15")
    assert north > south + 10
    south, north = jets("2025-07-15")
    assert south > north + 10


def test_forecast_returns_the_state_at_each_lead_time(transform, state):
    model = BarotropicModel(transform)
    leads = np.array([0, 6, 18]).astype("timedelta64[h]")
    fields = model.forecast(state, leads)
    assert fields.shape == (3, 3, 32, 64)
    np.testing.assert_array_equal(fields[:, 0], transform.flow(state))
    np.testing.assert_array_equal(fields[:, 2], transform.flow(model.advance(state, 36)))


@pytest.mark.parametrize("hours", [[0, 6, 5], [0, 1]])
def test_lead_times_between_steps_are_refused(transform, state, hours):
    model = BarotropicModel(transform, step=7200.0)
    with pytest.raises(ValueError, match="expected increasing multiples of 7200"):
        model.forecast(state, np.array(hours).astype("timedelta64[h]"))
