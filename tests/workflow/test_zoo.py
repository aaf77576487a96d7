"""The workflow on data sets that nobody designed a figure for: all notebooks, and the report."""

import json
import re

import numpy as np
import pytest
import zoo

from studies import notebook

N = 12  # images of a class


def with_gaps(image):
    """Return an image with a corner of missing pixels."""
    image = image.copy()
    image[:5, :9] = np.nan
    return image


def nothing_but_noise(rng):
    """No arc and no light anywhere, and so no fit that converges on one."""
    return {kind: [rng.normal(size=(zoo.SIDE, zoo.SIDE)) for _ in range(N)] for kind in KINDS}


def one_constant_class(rng):
    """One class is a single image again and again, so that its features are constants."""
    same = zoo.ring(rng)
    copies = [same + 1e-4 * rng.normal(size=same.shape) for _ in range(N)]
    return {"no_sub": [zoo.ring(rng) for _ in range(N)], "cdm": copies}


def missing_pixels(rng):
    """Three classes with gaps, one of them without any arc."""
    arcs = {kind: [with_gaps(zoo.ring(rng)) for _ in range(N)] for kind in ("no_sub", "cdm")}
    blank = [with_gaps(rng.normal(size=(zoo.SIDE, zoo.SIDE))) for _ in range(N)]
    return arcs | {"axion": blank}


KINDS = ("no_sub", "sub")


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (nothing_but_noise, {"ingest": {"pixel_scale": 0.1}}),
        (one_constant_class, {}),
        (missing_pixels, {"report": {"title": "Gaps", "author": "A. Nother"}}),
    ],
)
def test_every_notebook_and_the_report_stand_it(images, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    data = zoo.written(tmp_path / "images", images(np.random.default_rng(5)))
    out = zoo.run(tmp_path, data, **settings)
    numbers = sorted((out / "numbers").glob("*.json"))
    assert [file.stem for file in numbers] == ["01", "02", "03", "04", "05", "06"]
    assert len(list((out / "figures").glob("*.png"))) >= 26
    assert (out / "paper/report.pdf").read_bytes().startswith(b"%PDF")
    page = " ".join((out / "paper/report.html").read_text().split())
    assert "Few test images" in page
    assert ("A. Nother" in page) == ("report" in settings)
    assert not re.search(r"\bnan\b", page)
    for file in numbers:
        json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
