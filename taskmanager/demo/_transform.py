"""Fields on a Gaussian grid as sums of spherical harmonics, and back.

A real field f(longitude, mu), mu = sin(latitude), is kept as the complex coefficients f[m, n] of

    f = sum over |m| <= N, |m| <= n <= N of  f[m, n] P[m, n](mu) exp(i m longitude)

for m >= 0 (those of -m are their conjugates). P are the associated Legendre functions, normalized
so that each harmonic has a global mean square of one; then sums of squares of coefficients are
global means of squares of fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Real = NDArray[np.float64]
    Complex = NDArray[np.complex128]

__all__ = ["EARTH_RADIUS", "SphericalTransform", "legendre"]

#: Mean radius of the Earth, m.
EARTH_RADIUS = 6.371e6


class SphericalTransform:
    """Transforms of a triangular truncation on the Gaussian grid that is alias-free for products.

    The integral of three harmonics of degree N is exact with (3 N + 1) / 2 Gaussian latitudes and
    3 N + 1 longitudes, so the quadratic terms of the equations of motion carry no aliasing.

    Parameters
    ----------
    truncation : int
        Largest total wavenumber N. The default 21 needs 32 x 64 points.
    radius : float
        Radius of the sphere, m.

    Attributes
    ----------
    lat, lon : ndarray of float64, shapes (nlat,) and (nlon,)
        Degrees north (south to north) and degrees east.
    degree : ndarray of float64, shape (N + 1,)
        The total wavenumber n of each column of a coefficient array.
    laplacian : ndarray of float64, shape (N + 1,)
        Eigenvalue -n (n + 1) / radius^2 of each column, m-2.

    Notes
    -----
    Coefficient arrays are complex128 of shape (..., N + 1, N + 1), indexed [m, n], zero for n < m;
    fields are float64 of shape (..., nlat, nlon). Leading axes are transformed together. Formulas:
    Hack and Jakob, *Description of a global shallow water model based on the spectral transform
    method*, NCAR/TN-343+STR, 1992.
    """

    def __init__(self, truncation: int = 21, radius: float = EARTH_RADIUS) -> None:
        self.truncation = truncation
        self.radius = radius
        nlat = 2 * -(-(3 * truncation + 1) // 4)
        self.sine, weight = np.polynomial.legendre.leggauss(nlat)
        self.nlon = 2 * nlat
        self.lat: Real = np.degrees(np.arcsin(self.sine))
        self.lon: Real = np.linspace(0, 360, self.nlon, endpoint=False)
        self.degree: Real = np.arange(truncation + 1, dtype=np.float64)
        self.laplacian: Real = -self.degree * (self.degree + 1) / radius**2
        self._i_order: Complex = (1j * self.degree[:, None]).astype(np.complex128)
        self._set_matrices(weight / 2)

    def _set_matrices(self, weight: Real) -> None:
        """Lay out the matrices between coefficients and the Fourier rows of each latitude.

        `weight` are those of the mean over mu; per[l] turns slopes in mu and longitude into m-1.
        """
        value, slope = legendre(self.truncation, self.sine)
        per = 1 / (self.radius * np.sqrt(1 - self.sine**2))[:, None]
        inverse = np.zeros_like(self.laplacian)
        inverse[1:] = 1 / self.laplacian[1:]
        self._synthesis: Real = value
        # vorticity, -d psi / dy and psi / (radius cos lat) of a vorticity, in one product
        self._flow: Real = np.concatenate(
            [value, -slope * inverse * per, value * inverse * per], axis=1
        )
        mean = weight[:, None]
        self._analysis: Real = _projection(value * mean)
        self._convergence: Real = np.concatenate(
            [_projection(-value * per * mean), _projection(slope * per * mean)], axis=2
        )

    def synthesise(self, coefficients: Complex) -> Real:
        """Return the field (..., nlat, nlon) of coefficients (..., N + 1, N + 1)."""
        return self._to_field(_product(self._synthesis, coefficients))

    def analyse(self, field: Real) -> Complex:
        """Return the coefficients (..., N + 1, N + 1) of a field (..., nlat, nlon)."""
        return _product(self._analysis, self._to_rows(field))

    def flow(self, vorticity: Complex) -> Real:
        """Return vorticity, s-1, and the wind u and v, m s-1, of non-divergent flow.

        Parameters
        ----------
        vorticity : ndarray of complex128, shape (..., N + 1, N + 1)
            Coefficients, s-1. The mean, [0, 0], moves nothing.

        Returns
        -------
        ndarray of float64, shape (3, ..., nlat, nlon)
            Vorticity, eastward wind and northward wind.
        """
        rows = _product(self._flow, vorticity)
        nlat = len(self.sine)
        rows[..., 2 * nlat :] *= self._i_order
        field = self._to_field(rows)
        return np.stack([field[..., k * nlat : (k + 1) * nlat, :] for k in range(3)])

    def convergence(self, eastward: Real, northward: Real) -> Complex:
        """Return the coefficients of minus the divergence of a flux (fields, X and Y).

        -div(X, Y) = -(dX/dlon + d(Y cos lat)/dlat) / (radius cos lat), projected by parts, so that
        no derivative of a grid field is taken.
        """
        rows = self._i_order * self._to_rows(eastward)
        both = np.concatenate([rows, self._to_rows(northward)], axis=-1)
        return _product(self._convergence, both)

    def curl(self, eastward: Real, northward: Real) -> Complex:
        """Return the coefficients of the vorticity of a wind (fields u and v, m s-1), s-1."""
        return self.convergence(-northward, eastward)

    def mean_product(self, first: Complex, second: Complex) -> Real:
        """Return the global mean of the product of two fields, from their coefficients."""
        parts = (first * second.conj()).real
        return np.asarray(2 * parts.sum(axis=(-2, -1)) - parts[..., 0, :].sum(axis=-1))

    def _to_field(self, rows: Complex) -> Real:
        return np.fft.irfft(rows.swapaxes(-2, -1), self.nlon, norm="forward")

    def _to_rows(self, field: Real) -> Complex:
        rows = np.fft.rfft(field, norm="forward")[..., : self.truncation + 1]
        return np.ascontiguousarray(rows.swapaxes(-2, -1))


def _projection(matrix: Real) -> Real:
    return np.ascontiguousarray(matrix.swapaxes(-2, -1))


def _product(matrix: Real, columns: Complex) -> Complex:
    """Apply a real matrix to complex columns, for each zonal wavenumber (real parts, then not)."""
    pairs = np.ascontiguousarray(columns).view(np.float64).reshape(*columns.shape, 2)
    product: Complex = np.matmul(matrix, pairs).view(np.complex128)[..., 0]
    return product


def legendre(truncation: int, sine: Real) -> tuple[Real, Real]:
    """Return the normalized Legendre functions P[m, n](mu) and (1 - mu^2) dP[m, n]/dmu.

    Parameters
    ----------
    truncation : int
        Largest n and m, N.
    sine : ndarray of float64, shape (nlat,)
        Where: mu = sin(latitude).

    Returns
    -------
    tuple of two ndarrays of float64, shape (N + 1, nlat, N + 1)
        Indexed [m, latitude, n]; zero for n < m. The mean of P[m, n]^2 over mu is one.

    Notes
    -----
    Upward recurrence in n, which is stable; with e[m, n]^2 = (n^2 - m^2) / (4 n^2 - 1):
    e[m, n] P[m, n] = mu P[m, n-1] - e[m, n-1] P[m, n-2], and
    (1 - mu^2) dP[m, n]/dmu = (n + 1) e[m, n] P[m, n-1] - n e[m, n+1] P[m, n+1].
    """
    size = truncation + 2
    m, n = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    epsilon = np.sqrt(np.maximum(n**2 - m**2, 0) / (4.0 * n**2 - 1))
    value = np.zeros((size, len(sine), size))
    for k in range(size):
        value[k, :, k] = _sectoral(k, sine)
        for j in range(k + 1, size):
            below = epsilon[k, j - 1] * value[k, :, j - 2] if j > k + 1 else 0.0
            value[k, :, j] = (sine * value[k, :, j - 1] - below) / epsilon[k, j]
    slope = _slope(value, epsilon)
    return value[:-1, :, :-1].copy(), slope


def _sectoral(order: int, sine: Real) -> Real:
    """Return P[m, m] = cos(latitude)^m times the product of sqrt((2 k + 1) / (2 k)), k = 1..m."""
    k = np.arange(1, order + 1)
    scale = float(np.prod(np.sqrt((2 * k + 1) / (2 * k))))
    return np.asarray(scale * (1 - sine**2) ** (order / 2))


def _slope(value: Real, epsilon: Real) -> Real:
    n = np.arange(value.shape[-1] - 1)
    above = n * epsilon[:-1, None, 1:] * value[:-1, :, 1:]
    below = np.zeros_like(above)
    below[..., 1:] = (n[1:] + 1) * epsilon[:-1, None, 1:-1] * value[:-1, :, :-2]
    return np.asarray(below - above)
