"""What a feature is, and the decorator that makes a function one.

A feature of the image is one function with ``feature`` above it, in ``image``:

    @feature("morphology", unit="px", definition="radius of the circle through the light",
             reference="Taubin (1991)", expects="larger: more mass inside", needs="circle")
    def ring_radius(lens: Measured) -> float:
        return lens.circle.radius

The function's name is that of the column. Nothing else has to be changed: the table of definitions,
features.csv and the notebooks take the features from here, in the order in which they are defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

GROUPS = ("proposal", "morphology", "lensfit", "search")
OF_THE_IMAGE = GROUPS[:2]


@dataclass(frozen=True)
class Feature:
    """What a feature is: group, unit, formula, where it is from, how substructure changes it.

    Features that differ in a number only can share a row of the table: ``shared`` is then the name
    and the definition of that row, with a letter in place of the number.
    """

    group: str
    unit: str
    definition: str
    reference: str
    expects: str
    shared: tuple[str, str] | None = None


@dataclass(frozen=True)
class ImageFeature:
    """A feature of the image and how it is measured.

    ``function`` is one of ``Measured`` and, if the feature is measured at several levels
    (``levels``), of a level: a fraction of the peak. ``needs`` names the attribute of ``Measured``
    without which, where it is None, the feature has no value.
    """

    name: str
    feature: Feature
    function: Callable[..., float]
    needs: str | None
    levels: bool

    def at(self, level: float | None) -> Feature:
        """Return what the feature is at a level, None if it has none."""
        if level is None:
            return self.feature
        percent = f"{100 * level:g}"
        written, shared = (
            self.feature.definition.format(level=f"{value} %") for value in (percent, "L")
        )
        return replace(self.feature, definition=written, shared=(f"{self.name}_L", shared))


#: the features of the image by name; of those at several levels, without the level
IMAGE_FEATURES: dict[str, ImageFeature] = {}


def feature(
    group: str,
    *,
    definition: str,
    reference: str,
    expects: str,
    unit: str = "",
    needs: str | None = None,
    levels: bool = False,
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Return a decorator that makes a function of ``Measured`` a feature of the image.

    ``group`` is "proposal" or "morphology". ``unit`` is "" for a pure number. ``definition`` is the
    formula, ``reference`` where it is from, ``expects`` what substructure does to the value. With
    ``levels``, the function also gets a level of ``Features.levels``, and there is one feature for
    each: ``{level}`` in the definition stands for it, such as 20 %. ``needs`` names an attribute of
    ``Measured``, such as "region" or "ring": the value is NaN in images where it is None. Raises
    ValueError for another group, or a name that is taken.
    """
    if group not in OF_THE_IMAGE:
        raise ValueError(f"group: found {group!r}; expected one of {', '.join(OF_THE_IMAGE)}")

    def register(function: Callable[..., float]) -> Callable[..., float]:
        name = function.__name__
        if name in IMAGE_FEATURES:
            raise ValueError(f"feature: found {name!r} twice; expected a name of its own")
        entry = Feature(group, unit, definition, reference, expects)
        IMAGE_FEATURES[name] = ImageFeature(name, entry, function, needs, levels)
        return function

    return register


def image_features(
    groups: Sequence[str], levels: Sequence[float]
) -> Iterator[tuple[str, ImageFeature, float | None]]:
    """Yield the name, the feature and the level (None without) of each column, in their order.

    The order is that of the groups, and of the definitions; the features at levels come last in
    their group, level by level.
    """
    for group in OF_THE_IMAGE:
        if group not in groups:
            continue
        entries = [entry for entry in IMAGE_FEATURES.values() if entry.feature.group == group]
        yield from ((entry.name, entry, None) for entry in entries if not entry.levels)
        at_levels = [entry for entry in entries if entry.levels]
        for level in levels:
            tag = _suffix(level)
            yield from ((f"{entry.name}_{tag}", entry, level) for entry in at_levels)


def _suffix(level: float) -> str:
    """Return a level in percent as a part of a name: 0.05 is 05, 0.125 is 12p5."""
    return f"{100 * level:02.6g}".replace(".", "p").zfill(2)
