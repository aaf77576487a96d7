"""Generated settings, populations and YAML: taken as written, or refused with file and key.

Some thousand in seconds; ``VITDM_FUZZ=100 pytest tests/library/test_fuzz_config.py`` runs a hundred
times as many.
"""

import copy
import math
import os
import re

import hypothesis
import pytest
import yaml
from conftest import POPULATION, SETTINGS, fuzz
from hypothesis import strategies

from studies import config as workflow
from studies.config.part import load_part
from vitdm import config
from vitdm.config import reading
from vitdm.config.reading import read_yaml
from vitdm.config.search import Constraint
from vitdm.errors import InputError, cut, shown
from vitdm.simulation.drawing import simulate_one
from vitdm.simulation.population import load_population, population_of

RUN = {
    "classes": ["no_sub", "sub"],
    "image_size": 32,
    "feature_names": [],
    "model": SETTINGS["model"],
    "train": SETTINGS["train"],
    "preprocess": SETTINGS["preprocess"],
    "features": {},
    "task": "binary",
    "train_splits": ["train"],
    "n_train": 20,
    "seed": 1,
}
CUTOUTS = {
    "pixel_scale": 0.05,
    "lensfit": {},
    "cutouts": {"a": {"name": "a", "theta_E": 1.2, "mask": [[1, 2, 3]]}},
}
OWN = {key: SETTINGS[key] for key in config.Settings.model_fields.keys() & SETTINGS.keys()}
READERS = {
    "settings": (OWN, config.load_settings),
    "run": (RUN, config.load_run_settings),
    "workflow": (SETTINGS, workflow.load),
    "stage": ({"seed": 1, "model": SETTINGS["model"], "tune": SETTINGS["tune"]}, load_part),
    "population": (POPULATION, load_population),
    "cutouts": (CUTOUTS, workflow.load_cutouts),
}
#: as people write them, and as nobody should
SCALARS = (
    (".inf", "-.inf", ".nan", "1_000", "0o17", "017", "0x1F", "12:30:45", "1:30.5", "2024-01-01")
    + ("2001-12-14t21:59:43.10-05:00", "2024-99-99", "yes", "no", "on", "off", "true", "null", "~")
    + ("", "!!binary aGVsbG8=", "!!set {a, b}", "!!python/tuple [1, 2]", "!!python/name:os.system")
    + ("!!omap [a: 1]", "!!int abc", "!!float x", "!!bool maybe", "!!str 12", "!own 3", "=", "<<")
    + ("1e3", "1e400", "-1.0e+400", "9" * 5000, "1" + "0" * 24, "x" * 5000, "-1", "0", "1", "2.5")
    + ('"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\e[31m"', "'quoted'", "'4'", "'1_0'", "[]", "{}")
    + ("[1, [2, [3]]]", "{a: {b: c}}", "{uniform: [1, 2]}", "{normal: [1, yes]}", "{choice: []}")
    + ("{uniform: [.nan, 1]}", "{log_uniform: [1e-300, 1e300]}", "{choice: [0b1, 1_0]}", "{1: 2}")
    + ("[true, false]", "[1, 1]", "[[[[]]]]", "*gone", "&a [*a]", "&a {b: *a}", "|\n  a\n  b")
    + ("simulate", "vit", "../../x", "~/x", "a b", "é☃𝛼", "#", "'#'", "- 1", "? a", "%", "@", "`x`")
)


def places(content, path=()):
    """Every key of nested dictionaries and lists, as a path."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def checked_read(path, load):
    """Read a file; what refuses it is an InputError of some lines that name the file."""
    try:
        return load(path)
    except InputError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{path}: ") and len(line) < 1300 + len(str(path)), line[:200]
            assert ": " in line.removeprefix(f"{path}: ") or "expected" in line or "is " in line
        return None


def written(content, place, scalar):
    """Return YAML of settings with one value replaced by a piece of text as it stands."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "PLACE"
    text = yaml.safe_dump(content, default_flow_style=not scalar.startswith(("|", "- ", "? ")))
    return text.replace("PLACE", scalar)


@pytest.mark.parametrize("name", READERS)
def test_odd_values_are_taken_as_written_or_refused(tmp_path, name):
    content, load = READERS[name]
    path = tmp_path / "mine.yaml"
    paths, given = list(places(content)), []

    @fuzz(250)
    @hypothesis.given(strategies.sampled_from(paths), strategies.sampled_from(SCALARS))
    def read(place, scalar):
        path.write_text(written(content, place, scalar), encoding="utf-8")
        if (found := checked_read(path, load)) is not None:
            given.append((place, scalar, found))
            assert_same(found, place, scalar)

    read()
    assert given  # some are as good as what was there


def assert_same(found, place, scalar):
    """A number or a text that was taken is the one that was written, a truth value is none."""
    value = found
    for key in place:
        if isinstance(value, dict | list | tuple):
            value = value[key]
        else:
            value = getattr(value, str(key), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str) or scalar == "[1, 1]":
        return  # the sides of a square are its side
    if isinstance(value, str):
        plain = scalar.strip("'").removeprefix("!!str ")
        assert (
            value == plain
            or "\\" in scalar
            or scalar.startswith("|")
            or place[-1]
            in (
                "data",  # the home folder is expanded
                "name",  # data from files get a name of their own
            )
        ), (place, scalar, value)
    else:
        text = scalar.strip("'").removeprefix("!!str ")
        number = int(text, 0) if text.startswith("0x") else float(text)
        assert float(value) == number and math.isfinite(value), (place, scalar, value)


@pytest.mark.parametrize("name", READERS)
def test_odd_keys_are_refused_or_known(tmp_path, name):
    content, load = READERS[name]
    path = tmp_path / "mine.yaml"
    sections = [p for p in places(content) if isinstance(at(content, p), dict)] + [()]
    keys = ["1", "yes", "~", ".nan", "2024-01-01", "12:30", "[1]", "{a: 1}", "1.5", "!!binary aGk="]
    keys += ["'a\\nb'", '"a\\nb"', '"\\0"', "x" * 3000, "<<", "=", "''", "*gone", "&k a", "!k a"]

    @fuzz(60)
    @hypothesis.given(strategies.sampled_from(sections), strategies.sampled_from(keys))
    def read(place, key):
        changed = copy.deepcopy(content)
        at(changed, place)["PLACE"] = 1
        text = yaml.safe_dump(changed, default_flow_style=True, width=10**6)
        path.write_text(text.replace("PLACE", f"? {key} "), encoding="utf-8")
        found = checked_read(path, load)
        # names of a user's own: of cutouts, runs
        assert found is None or place in (("cutouts",), ("references",)), (place, key)

    read()


def at(content, place):
    for key in place:
        content = content[key]
    return content


nested = strategies.recursive(
    strategies.one_of(
        strategies.none(),
        strategies.booleans(),
        strategies.integers(),
        strategies.floats(),
        strategies.text(max_size=20),
        strategies.dates(),
        strategies.binary(max_size=8),
    ),
    lambda inner: (
        strategies.lists(inner, max_size=4)
        | strategies.dictionaries(strategies.text(max_size=6) | strategies.integers(), inner)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", READERS)
def test_any_section_may_hold_anything(tmp_path, name):
    content, load = READERS[name]
    path = tmp_path / "mine.yaml"

    @fuzz(100)
    @hypothesis.given(strategies.sampled_from(list(places(content))), nested)
    def read(place, value):
        changed = copy.deepcopy(content)
        at(changed, place[:-1])[place[-1]] = value
        path.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8")
        checked_read(path, load)

    read()


def test_any_bytes(tmp_path):
    path = tmp_path / "mine.yaml"
    pieces = strategies.sampled_from(
        [b"a: ", b"- ", b"[", b"{", b"}", b"]", b"&a ", b"*a", b"<<: ", b"!!", b"? ", b"|", b"'"]
        + [b'"', b"\n", b"  ", b"\t", b"\r", b"\0", b"#", b"---\n", b"...\n", b"%YAML 1.1\n", b"\\"]
        + [b"\xef\xbb\xbf", b"\xff\xfe", b"seed", b"model", b"1", b",", b":", b"\\x", b"\\U"]
    )
    chunk = pieces | strategies.binary(max_size=4)

    @fuzz(1000)
    @hypothesis.given(strategies.lists(chunk, max_size=25))
    def read(chunks):
        path.write_bytes(b"".join(chunks))
        checked_read(path, read_yaml)

    read()


@hypothesis.given(nested)
@fuzz(300)
def test_what_is_shown_is_short(value):
    assert len(shown(value)) <= 80 and "\n" not in shown(value)
    assert not isinstance(value, int) or value.bit_length() > 190 or shown(value) == repr(value)


# ------------------------------------------------------------------------------ within bounds


def bomb(link):
    """Twelve lines, each of which has the one before nine times."""
    lines = ["a: &a {x: 1}"]
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{name}: &{name} {link(', '.join([f'*{before}'] * 9))}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(lambda names: f"[{names}]"), r"f: expected at most 30000 values, aliases included"),
        (bomb(lambda names: f"{{<<: [{names}]}}"), r"f\.<<: expected at most 30000 values"),
        ("a: " + "[" * 100_000, r"a\.0\.0.*: expected at most 40 levels \(line 1\)"),
        ("a: [" + "1," * 40_000 + "]", r"a\.\d+: expected at most 30000 values"),
        ("#" * 1_000_001, "is larger than 1000000 bytes"),
        ("model: &a {depth: *a}", "model.depth: found an alias of what it is in"),
        ("seed: 1\ntask: binary\nseed: 2", r"seed: occurs twice; expected once \(line 3\)"),
        ("model: {depth: 1,\n 'depth': 2}", r"model\.depth: occurs twice; .* \(line 2\)"),
        ("seed: 12:30:45", "seed: found '12:30:45', which YAML reads in base 60; expected a plain"),
        ("train: {clip: 1:30.5}", "train.clip: found '1:30.5', which YAML reads in base 60"),
        ("seed: 017", "seed: found '017', which YAML reads in base 8"),
        ("task: 2024-01-01", "task: found '2024-01-01', which YAML reads as a date"),
        ("seed: " + "9" * 5000, "seed: found a number of 5000 digits"),
        ("task: !!binary aGVsbG8=", "task: found the tag !!binary; expected none"),
        ("task: !!set {a}", "task: found the tag !!set; expected none"),
        ("seed: !!python/tuple [1]", "seed: found the tag !!python/tuple; expected none"),
        ('task: "a\\0b"', "task: found control characters"),
        ("model: {depth: yes}", "model.depth: expected none of true, false, yes, .* found True"),
        ("tune: {fixed: {depth: on}, space: {}}", "tune.fixed.depth: .*none of true.*found True"),
        ("train: {clip: .inf}", "train.clip: Input should be a finite number, found inf"),
        ("seed: 4294967296", "seed: .*less than or equal to 2147483647"),
        ("model: {stem: 1" + "0" * 24 + "}", "model.stem: .*less than or equal to 8, found 1000"),
        ("model: {embed_dim: 1000000000}", "model.embed_dim: .*less than or equal to 8192"),
        ("model: {depth: 1000000000}", "model.depth: .*less than or equal to 256"),
        (
            "model: {depth: 256, embed_dim: 8192}",
            r"model: expected up to 1e\+09 weights, found some 1e\+11: depth, embed_dim, mlp_rat",
        ),
        (
            "model: {architecture: vitt}",
            "model.architecture: expected one of: cnn, resnet, resnet18, vit, vit_p",
        ),
        ("n_images: {train: 1000000000}", "n_images.train: .*less than or equal to 10000000"),
        (
            "tune: {constraints: [9 ** 9 ** 9], space: {}}",
            r"tune.constraints: '9 \*\* 9 \*\* 9': found BinOp; expected numbers, names",
        ),
        ("tune: {constraints: ['pool * 10 > 1'], space: {}}", "'pool .* 10 > 1': found BinOp"),
        ("tune: {constraints: ['" + "-" * 900 + "1'], space: {}}", "expected up to 200 characters"),
    ],
)
def test_settings_beyond_bounds_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml: (.*\n)*.*" + message) as caught:
        config.load_settings(path)
    assert len(str(caught.value)) < 4000 + len(str(path))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("num_pix", 10**6, "num_pix: .*less than or equal to 4096"),
        ("vortex.points", 10**9, "vortex.points: .*less than or equal to 1000000"),
        ("subhalos.number", 10**9, "subhalos.number: .*less than or equal to 1000000"),
        ("subhalos.mass_range", [1e-300, 1e300], r"subhalos.mass_range.0: .*equal to 0.0000000001"),
        ("subhalos.mass_slope", -1e300, "subhalos.mass_slope: .*greater than or equal to -10"),
        ("instrument.psf_fwhm", 1e9, r"instrument.psf_fwhm: reaches 1e\+10 pixels; expected up to"),
        ("instrument.pixel_scale", 0.05 / 3600, "instrument.pixel_scale: .*equal to 0.001"),
        ("source.n_sersic", 300, "source.n_sersic: expected more than 0 and at most 20"),
        ("source.amp", {"uniform": [True, 2]}, "source.amp: expected a number, {uniform"),
        ("cosmology.z_source", 1e300, "cosmology.z_source: .*less than or equal to 1100"),
    ],
)
def test_populations_beyond_bounds_are_refused(tmp_path, place, value, message):
    content, path = copy.deepcopy(POPULATION), tmp_path / "mine.yaml"
    *above, last = place.split(".")
    at(content, above)[last] = value
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"mine\.yaml: " + message):
        load_population(path)


def test_any_encoding_of_unicode_and_any_line_ends(tmp_path):
    path, text = tmp_path / "mine.yaml", "seed: 3\nmodel:\n  depth: 2\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert config.load_settings(path).model.depth == 2
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert config.load_settings(path).model.depth == 2


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match=rf"{path}: is no file"):
            config.load_settings(path)
    with pytest.raises(InputError, match="cannot be read"):
        config.load_settings("a\0b")


def test_a_message_is_never_built_whole():
    """The text of this list would have 10^12 characters."""
    value = ["x" * 100]
    for _ in range(10):
        value = [value] * 10
    text = shown([value] * 10)
    assert len(text) <= 80 and text.startswith("[[")
    assert shown(b"x" * 10**6).startswith("b'xxx") and shown(10**6000) == "<integer of 19932 bits>"
    assert shown("two\nlines") == r"'two\nlines'" and cut("two\n lines") == "two lines"
    assert reading.MOST_NODES < 10**5


def test_a_constraint_that_cannot_be_computed_is_named():
    for text in ("embed_dim % (depth - 1) == 0", "pool > 3", "1e3 ** embed_dim > 1"):
        with pytest.raises(InputError, match=f"the constraint '{re.escape(text)}': "):
            Constraint(text)({"embed_dim": 4096, "depth": 1, "pool": "cls"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"subhalos": {"f_sub": 1, "mass_range": [1e-10, 1e-9], "position": {"disc": 2}}},
            r"subhalos: f_sub = 1 makes .* of them in a lens; expected up to 1000000, so a larger",
        ),
        ({"source": {"amp": 1e15}}, r"tiny: found .* counts in a pixel; expected less than 1e\+18"),
    ],
)
def test_lenses_beyond_bounds_are_not_drawn(changes, message):
    content = copy.deepcopy(POPULATION)
    for section, keys in changes.items():
        content[section] |= keys
    if "subhalos" in changes:
        del content["subhalos"]["number"]
    content["instrument"]["exposure_time"] = 1e6
    with pytest.raises(InputError, match=message):
        simulate_one(0, "cdm", 1, population_of(content))
