"""Settings in which published simulations depart from physics (``priors.quirk``), as a table.

``python -m vitdm.simulation.quirks`` prints the table that ``docs/data.md`` shows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import get_args

import pandas as pd
import yaml

from vitdm.simulation.population import Population, load_population, schema, shipped
from vitdm.simulation.priors import Part


def quirks(populations: list[Population]) -> pd.DataFrame:
    """Return a row for each setting in which published code departs from what physics asks for.

    Columns: setting, published and asked (its values), populations (which have the published one),
    reason.
    """
    rows = []
    for path, mark in _marked(schema()):
        published = mark["published"].split(" or ")
        have = [p.name for p in populations if _written(p, path) in published]
        rows.append({"setting": ".".join(path), **mark, "populations": ", ".join(have)})
    return pd.DataFrame(rows)[["setting", "published", "asked", "populations", "reason"]]


def _marked(section: type[Part], *path: str) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Yield path and mark of each setting marked as a ``quirk``, in a section and those below."""
    for name, field in section.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            yield (*path, name), field.json_schema_extra["quirk"]
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Part):
                yield from _marked(kind, *path, name)


def _written(section: Part, path: tuple[str, ...]) -> str | None:
    """Return a setting as it stands in a file, None if a section above it is missing."""
    for name in path:
        if section is None:
            return None
        section = getattr(section, name)
    value = section.model_dump(exclude_none=True) if isinstance(section, Part) else section
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return re.sub(r"\.0\b", "", text)


if __name__ == "__main__":
    table = quirks([load_population(name) for name in sys.argv[1:] or shipped()])
    for name in ("setting", "published", "asked"):
        table[name] = "`" + table[name].str.replace(" or ", "` or `") + "`"
    print("| setting | published code | physics | populations with the former | reason |")
    print("|---|---|---|---|---|")
    for row in table.itertuples(index=False):
        print("|", " | ".join(row), "|")
