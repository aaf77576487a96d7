"""Units of the values of an image, as they are spelled here."""

from __future__ import annotations

import re

#: units whose photon noise is that of a number of counts
COUNTED = ("electron", "counts", "DN", "adu")
_SPELLINGS = {
    "electron": "electron electrons e e- elec el photoelectron photoelectrons",
    "counts": "counts count ct cts",
    "DN": "dn",
    "adu": "adu adus",
    "nanomaggy": "nanomaggy nanomaggies nanomaggie nmgy nmgys",
}
_NAMES = {name: unit for unit, names in _SPELLINGS.items() for name in names.split()}


def unit_of(text: str) -> str:
    """Return a unit such as ``electron/s`` for any usual spelling of it; others as they are."""
    text = " ".join(text.split())
    if text.lower() == "cps":
        return "counts/s"
    rate = re.fullmatch(r"(.+?)(?:\s*/\s*|\s+per\s+)(?:s|sec|secs|second|seconds)", text, re.I)
    rate = rate or re.fullmatch(r"(.+?)[ .*]+s(?:ec)?(?:\^|\*\*)?\(?-1\)?", text, re.I)
    base = (rate[1] if rate else text).strip()
    known = _NAMES.get(base.lower())
    return text if known is None else known + ("/s" if rate else "")
