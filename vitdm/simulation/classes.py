"""Classes of substructure: what each is called, how it is drawn, and what is known of it.

A class of one's own is one object: ``register(SubstructureClass(...))`` before its population is
loaded. From then on population files have its section, datasets its name and its columns, and
models, metrics and figures follow. Nothing else names a class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitdm.errors import InputError
from vitdm.simulation.priors import Part
from vitdm.simulation.subhalos import Subhalos, draw_subhalos
from vitdm.simulation.system import NO_SUB, System
from vitdm.simulation.vortex import Vortex, draw_vortex

if TYPE_CHECKING:
    from vitdm.simulation.population import Population

__all__ = ["AXION", "CDM", "CLASSES", "NO_SUB", "SUB", "Quantity", "SubstructureClass"]
__all__ += ["declare", "get", "register", "simulated", "truth_of"]

SUB = "sub"  # the class of a lens with substructure of any kind
NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")  # of a class: columns and files are named after it
#: of classes of which nothing but the name is known (Okabe and Ito's, those that are left)
COLOURS = ("#56B4E9", "#E69F00", "#999999", "#F0E442", "#000000")
Draw = Callable[[System, np.random.Generator, "Population"], System]


@dataclass(frozen=True)
class Quantity:
    """A number known of each lens, by which scores are binned or errors explained.

    ``column`` is its name in a catalog or table of features. On an axis it has the ``label``,
    which names the ``unit`` that values are divided by, and a logarithmic scale if ``log``.
    """

    column: str
    label: str
    log: bool = True
    unit: float = 1.0


@dataclass(frozen=True, eq=False)
class SubstructureClass:
    """A class of lenses.

    A class that can be simulated has ``draw``, which adds substructure to a smooth lens: it gets
    the System, random numbers of its own and the population, and returns the System with masses,
    their places and ``truth``, a value for each column of the catalog that the class fills. Its
    parameters are the ``section`` of a population file, a model of type ``schema``.
    """

    name: str  # in catalogs, population files and columns such as p_<name>
    label: str  # in words, for figures
    short: str  # for tables with little room
    colour: str  # in figures
    aliases: tuple[str, ...] = ()  # lower case: names of its folder in published data sets
    section: str | None = None
    schema: type[Part] | None = None
    draw: Draw | None = None
    truth: tuple[str, ...] = ()  # columns of the catalog
    binned_by: tuple[Quantity, ...] = ()  # the completeness of this class
    explained_by: tuple[Quantity, ...] = ()  # a model's errors on this class
    middle: tuple[str, str] | None = None  # columns: x, y ["] of its heaviest mass, or its middle
    line: tuple[str, str] | None = None  # columns: length ["] and angle [rad] of a straight string
    declared: bool = False  # nothing else is known of it


#: all classes by name, in the order of the labels of a model; ``register`` adds to it
CLASSES: dict[str, SubstructureClass] = {}


def register(new: SubstructureClass) -> SubstructureClass:
    """Add a class, after those known so far; InputError if its names are taken."""
    for known in CLASSES.values():
        if taken := {new.name, *new.aliases} & {known.name, *known.aliases}:
            raise InputError(f"class {new.name!r}: {taken.pop()!r} is a name of {known.name!r}")
        if new.section is not None and new.section == known.section:
            raise InputError(f"class {new.name!r}: section {new.section!r} is of {known.name!r}")
    if (new.section is None) != (new.schema is None):
        raise InputError(f"class {new.name!r}: expected both a section and its schema, or neither")
    CLASSES[new.name] = new
    return new


def declare(names: Iterable[str]) -> None:
    """Add classes of which nothing but the name is known, such as those of somebody's images.

    They come after all others, sorted by name: the order of the labels does not depend on which
    data set was opened first. InputError for what is no name.
    """
    unknown = sorted({*names} - {*CLASSES})
    declared = {name: CLASSES.pop(name) for name in list(CLASSES) if CLASSES[name].declared}
    for name in sorted({*unknown, *declared}):
        if not NAME.fullmatch(name):
            CLASSES.update(declared)
            raise InputError(
                f"class {name!r}: expected a letter first, then letters, digits and underscores"
            )
        colour = COLOURS[sum(known.declared for known in CLASSES.values()) % len(COLOURS)]
        CLASSES[name] = SubstructureClass(
            name, name, name, colour, aliases=(name.lower(),), declared=True
        )


def get(name: str) -> SubstructureClass:
    """Return the class of a name; InputError lists the names if there is none."""
    if name not in CLASSES:
        raise InputError(f"class {name!r}: unknown; expected one of: {', '.join(CLASSES)}")
    return CLASSES[name]


def simulated() -> list[str]:
    """Return the names of the classes of substructure that can be simulated."""
    return [known.name for known in CLASSES.values() if known.draw is not None]


def truth_of(names: list[str]) -> list[str]:
    """Return the columns of the truth of some classes, each once, in the order of CLASSES."""
    columns = [column for name in CLASSES if name in names for column in CLASSES[name].truth]
    return list(dict.fromkeys(columns))


# ------------------------------------------------------------------------------- those that ship

_MASS = Quantity("substructure_mass", r"mass in subhalos ($10^{10}$ M$_\odot$)", unit=1e10)
_FRACTION = Quantity("f_sub", "mass fraction in subhalos (%)", unit=0.01)
_LENGTH = Quantity("vortex_length", "length of the vortex (arcsec)")
_AXION_MASS = Quantity("axion_mass", r"mass of the axion ($10^{-23}$ eV)", unit=1e-23)
#: how far ``middle`` lies inside or outside the Einstein radius, near which the arcs are
_TO_RING = Quantity("ring_distance", "heaviest subhalo to ring (arcsec)", log=False)

register(
    SubstructureClass(
        name=NO_SUB,
        label="no substructure",
        short="smooth",
        colour="#0072B2",
        aliases=("no", "nosub", "no_sub", "no_substructure"),
    )
)
register(
    SubstructureClass(
        name=SUB,
        label="substructure",
        short="any",
        colour="#CC79A7",
        aliases=("sub", "substructure"),
    )
)
CDM = register(
    SubstructureClass(
        name="cdm",
        label="CDM subhalos",
        short="CDM",
        colour="#D55E00",
        aliases=("sphere", "spherical", "cdm"),
        section="subhalos",
        schema=Subhalos,
        draw=draw_subhalos,
        truth=(
            "n_subhalos",
            "f_sub",
            "substructure_mass",
            "max_subhalo_mass",
            "max_subhalo_x",
            "max_subhalo_y",
        ),
        binned_by=(_MASS, _TO_RING, _FRACTION),
        explained_by=(_MASS, _TO_RING),
        middle=("max_subhalo_x", "max_subhalo_y"),
    )
)
AXION = register(
    SubstructureClass(
        name="axion",
        label="axion vortex",
        short="axion",
        colour="#009E73",
        aliases=("vort", "vortex", "axion"),
        section="vortex",
        schema=Vortex,
        draw=draw_vortex,
        truth=(
            "substructure_mass",
            "axion_mass",
            "vortex_length",
            "vortex_x",
            "vortex_y",
            "vortex_angle",
        ),
        binned_by=(_LENGTH, _AXION_MASS),
        explained_by=(_MASS, _LENGTH, _TO_RING),
        middle=("vortex_x", "vortex_y"),
        line=("vortex_length", "vortex_angle"),
    )
)
