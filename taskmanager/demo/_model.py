"""The barotropic vorticity equation on the rotating sphere.

    d zeta / dt = -div((zeta + f) v),    v = k x grad(psi),    laplacian(psi) = zeta,

with the relative vorticity zeta, the Coriolis parameter f = 2 Omega sin(latitude) and the stream
function psi. One layer of air without friction or heating: it moves and stirs its vorticity and
keeps kinetic energy, enstrophy and angular momentum. It is the equation of the first numerical
weather forecasts (Charney, Fjortoft and von Neumann, Tellus 2, 1950).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taskmanager.demo._transform import SphericalTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taskmanager.demo._transform import Complex, Real

__all__ = ["EARTH_ROTATION", "BarotropicModel"]

#: Angular velocity of the Earth, s-1.
EARTH_ROTATION = 7.292e-5


class BarotropicModel:
    """Forecasts of two-dimensional flow on a sphere: spectral in space, Runge-Kutta in time.

    Parameters
    ----------
    transform : SphericalTransform, optional
        Truncation, grid and radius; T21 on 32 x 64 points of the Earth by default.
    step : float
        Time step of the classical fourth-order Runge-Kutta scheme, s.
    rotation : float
        Angular velocity Omega of the planet, s-1.
    damping : float or None
        E-folding time, s, of the smallest scale under eighth-order hyperdiffusion, which takes out
        the vorticity that turbulence piles up at the truncation. None conserves energy.

    Notes
    -----
    The state is the vorticity as coefficients (see `SphericalTransform`), s-1.
    """

    def __init__(
        self,
        transform: SphericalTransform | None = None,
        *,
        step: float = 1800.0,
        rotation: float = EARTH_ROTATION,
        damping: float | None = None,
    ) -> None:
        self.transform = transform or SphericalTransform()
        self.step = step
        self._coriolis: Real = 2 * rotation * self.transform.sine[:, None]
        scale = self.transform.laplacian / self.transform.laplacian[-1]
        self._survival: Real = np.exp(-step / (damping or np.inf) * scale**4)

    def tendency(self, vorticity: Complex) -> Complex:
        """Return d zeta / dt, s-2, of inviscid flow."""
        zeta, u, v = self.transform.flow(vorticity)
        absolute = zeta + self._coriolis
        return self.transform.convergence(u * absolute, v * absolute)

    def advance(self, vorticity: Complex, steps: int = 1) -> Complex:
        """Return the state `steps` time steps later."""
        for _ in range(steps):
            vorticity = self._runge_kutta(vorticity) * self._survival
        return vorticity

    def _runge_kutta(self, start: Complex) -> Complex:
        half = self.step / 2
        first = self.tendency(start)
        second = self.tendency(start + half * first)
        third = self.tendency(start + half * second)
        fourth = self.tendency(start + self.step * third)
        return start + self.step / 6 * (first + 2 * (second + third) + fourth)

    def forecast(self, vorticity: Complex, lead_times: NDArray[np.timedelta64]) -> Real:
        """Return vorticity and wind at the lead times.

        Parameters
        ----------
        vorticity : ndarray of complex128, shape (N + 1, N + 1)
            The state at lead time 0, s-1.
        lead_times : ndarray of timedelta64, shape (lead_time,)
            Increasing multiples of the time step.

        Returns
        -------
        ndarray of float64, shape (3, lead_time, nlat, nlon)
            Vorticity, s-1, eastward and northward wind, m s-1.

        Raises
        ------
        ValueError
            A lead time is not a whole number of steps behind the one before it.
        """
        fields = []
        for steps in self._steps_between(lead_times):
            vorticity = self.advance(vorticity, steps)
            fields.append(self.transform.flow(vorticity))
        return np.stack(fields, axis=1)

    def _steps_between(self, lead_times: NDArray[np.timedelta64]) -> list[int]:
        steps = lead_times / np.timedelta64(1, "s") / self.step
        gaps = np.diff(steps, prepend=0.0)
        if np.any(steps % 1) or np.any(gaps < 0):
            message = f"expected increasing multiples of {self.step} s, got lead times {lead_times}"
            raise ValueError(message)
        return [int(gap) for gap in gaps]

    def energy(self, vorticity: Complex) -> Real:
        """Return the mean kinetic energy, m2 s-2: minus half the mean of psi times zeta."""
        psi = vorticity.copy()
        psi[..., 1:] /= self.transform.laplacian[1:]
        return -self.transform.mean_product(psi, vorticity) / 2

    def enstrophy(self, vorticity: Complex) -> Real:
        """Return half the mean square of the relative vorticity, s-2."""
        return self.transform.mean_product(vorticity, vorticity) / 2
