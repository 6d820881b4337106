"""Initial states of the ensemble: jets that follow the season, waves on them, and random errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from taskmanager.demo._transform import Complex, Real, SphericalTransform

__all__ = ["analysis", "perturbation"]

_YEAR = np.timedelta64(31_556_952, "s")
_STORM_TRACKS = (-45.0, 45.0)  # degrees north
_WAVES = (3, 4, 5, 6)  # zonal wavenumbers


def analysis(transform: SphericalTransform, time: np.datetime64) -> Complex:
    """Return the unperturbed vorticity at a time: jets and Rossby waves, a function of the date.

    Parameters
    ----------
    transform : SphericalTransform
    time : numpy.datetime64
        The jet of the winter hemisphere is the stronger one; the waves drift with the date.

    Returns
    -------
    ndarray of complex128, shape (N + 1, N + 1)
        Coefficients, s-1.
    """
    year = float((time - np.datetime64("1970-01-01")) / _YEAR)
    wind = _jets(transform, season=year % 1)
    return transform.curl(wind, np.zeros_like(wind)) + transform.analyse(_waves(transform, year))


def _jets(transform: SphericalTransform, season: float) -> Real:
    """Return a westerly jet in each storm track and easterlies at the equator, m s-1.

    The jets are narrow enough to be barotropically unstable, so that the members part.
    """
    lat = transform.lat[:, None]
    wind = -8 * np.cos(np.radians(lat)) ** 6 + np.zeros_like(transform.lon)
    for centre in _STORM_TRACKS:
        swing = 1 + 0.2 * np.sign(centre) * np.cos(2 * np.pi * season)
        wind += 50 * swing * np.exp(-(((lat - centre) / 10) ** 2))
    return np.asarray(wind)


def _waves(transform: SphericalTransform, year: float) -> Real:
    """Return vorticity waves, s-1, in both storm tracks.

    Their form is that of Held and Phillips, J. Atmos. Sci. 44 (1987), 200-207.
    """
    lat, lon = transform.lat[:, None], np.radians(transform.lon)
    field = np.zeros((len(transform.lat), len(transform.lon)))
    for centre in _STORM_TRACKS:
        envelope = np.cos(np.radians(lat)) * np.exp(-(((lat - centre) / 15) ** 2))
        for m in _WAVES:
            phase = 2 * np.pi * (year * (m + 7) + 0.618 * m) + np.sign(centre)
            field += 3e-5 * envelope * np.cos(m * lon + phase)
    return field


def perturbation(transform: SphericalTransform, rng: np.random.Generator, wind: float) -> Complex:
    """Return a random vorticity field, s-1, with a red spectrum: kinetic energy as n^-3, n >= 4.

    Parameters
    ----------
    transform : SphericalTransform
    rng : numpy.random.Generator
        Gaussian amplitudes are drawn from it.
    wind : float
        Root of the expected mean square of the wind, m s-1.

    Returns
    -------
    ndarray of complex128, shape (N + 1, N + 1)
        Coefficients, s-1.
    """
    n = transform.degree
    share = np.zeros_like(n)
    share[4:] = n[4:] ** -3
    share *= wind**2 / share.sum() / (2 * n + 1)  # mean square of the wind in each harmonic
    amplitude = np.sqrt(-transform.laplacian * share / 2)
    real, imaginary = rng.standard_normal((2, len(n), len(n)))
    noise = np.where(n >= n[:, None], real + 1j * imaginary, 0)
    noise[0] = np.sqrt(2) * noise[0].real  # the zonal part is real and keeps its variance
    return noise * amplitude
