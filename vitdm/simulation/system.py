"""One lens: everything that its image depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vitdm.simulation.structure import SourceStructure

NO_SUB = "no_sub"  # the class of a lens without substructure
NONE = np.empty(0)


@dataclass(frozen=True)
class System:
    """One lens, with everything that its image depends on.

    ``theta_E`` ["] is the Einstein radius of all mass, as drawn; ``theta_E_halo`` that of the
    smooth halo, from which the mean mass of the substructure may have been taken. ``center`` ["] is
    where it lies in its image; all other places are measured from there. ``slope``: logarithmic
    slope of the halo's density, None for an isothermal one; ``multipoles`` a1_x, a1_y, a3_x, a3_y,
    a4_x, a4_y, over theta_E_halo. ``source`` and ``lens_light`` are arguments of lenstronomy's
    SERSIC_ELLIPSE; ``structure`` is that of the source. Substructure is made of n masses
    at ``x``, ``y`` ["] of ``masses`` [solar masses], each (n,): points, or isothermal spheres cut
    at ``truncation`` (n,) ["]. ``kind`` is the name of the class; ``truth`` is what the catalog
    tells of the lens.
    """

    theta_E: float
    theta_E_halo: float
    e1: float
    e2: float
    gamma1: float
    gamma2: float
    source: dict[str, float]
    lens_light: dict[str, float] | None = None
    center: tuple[float, float] = (0.0, 0.0)
    slope: float | None = None
    multipoles: tuple[float, ...] | None = None
    structure: SourceStructure | None = None
    exposure_time: float = 1.0
    kind: str = NO_SUB
    x: np.ndarray = field(default_factory=lambda: NONE)
    y: np.ndarray = field(default_factory=lambda: NONE)
    masses: np.ndarray = field(default_factory=lambda: NONE)
    truncation: np.ndarray | None = None
    truth: dict[str, float] = field(default_factory=dict)

    def mean_radius(self, radius: float) -> float:
        r"""Return the Einstein radius ["] of all mass within a ``radius`` ["].

        A power law has :math:`\theta_E^{slope-1} r^{3-slope}` there, in units of angle^2.
        """
        if self.slope is None:
            return np.sqrt(self.theta_E * radius)
        return np.sqrt(self.theta_E ** (self.slope - 1) * radius ** (3 - self.slope))

    def without(self, squared: float) -> float:
        """Return the Einstein radius ["] of the halo less a mass [angle^2] within theta_E."""
        if self.slope is None:
            return self.theta_E - squared / self.theta_E
        return self.theta_E * (1 - squared / self.theta_E**2) ** (1 / (self.slope - 1))


def smooth(system: System) -> System:
    """Return the lens without substructure, its mass back in the halo."""
    points = {"x": NONE, "y": NONE, "masses": NONE, "truncation": None}
    return replace(system, kind=NO_SUB, theta_E_halo=system.theta_E, **points)
