"""Settings of the search of hyperparameters, and the space that it searches."""

from __future__ import annotations

import ast
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from vitdm.bounds import LARGEST_SEED, MOST_EPOCHS, MOST_IMAGES, MOST_PARTS, MOST_PROCESSES
from vitdm.config.images import Preprocess
from vitdm.config.network import Model, Train
from vitdm.config.sections import Section, report, value_type, wrong
from vitdm.errors import InputError, shown


class Real(Section):
    """A real number that a search varies."""

    type: Literal["real"] = Field(description="of the dimension")
    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="searched on a logarithmic scale")

    @model_validator(mode="after")
    def _ordered(self) -> Real:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"needs low < high (and low > 0 if log), found {self.low}, {self.high}"
            )
        return self


class Integer(Section):
    """A whole number that a search varies."""

    type: Literal["integer"] = Field(description="of the dimension")
    low: int = Field(description="smallest value")
    high: int = Field(description="largest value")
    log: bool = Field(False, description="searched on a logarithmic scale")

    @model_validator(mode="after")
    def _ordered(self) -> Integer:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"needs low < high (and low > 0 if log), found {self.low}, {self.high}"
            )
        return self


class Categorical(Section):
    """One of several values, without an order."""

    type: Literal["categorical"] = Field(description="of the dimension")
    choices: list[Any] = Field(min_length=2, description="the values")


Dimension = Annotated[Real | Integer | Categorical, Field(discriminator="type")]

#: the sections whose keys a search may vary or hold at a value
TUNED = {"model": Model, "train": Train, "preprocess": Preprocess}
#: keys of these that no search may vary, and why
NOT_TUNED = {
    "epochs": "tune.epochs and final.epochs take its place",
    "patience": "the final training has a fixed number of epochs",
    "accelerator": "it does not change what is learned",
    "threshold": "the features are measured with it, once for all trials",
    "maps": "lists of channels are compared as runs",
}


def tuned_fields() -> dict[str, Any]:
    """Return the fields that a search may vary by their names, which no two sections share."""
    fields = {name: f for schema in TUNED.values() for name, f in schema.model_fields.items()}
    return {name: field for name, field in fields.items() if name not in NOT_TUNED}


def by_section(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return parameters of a search by the section that each belongs to."""
    return {
        section: {name: value for name, value in params.items() if name in schema.model_fields}
        for section, schema in TUNED.items()
    }


class Tune(Section):
    """Bayesian optimisation (``vitdm.tuning``).

    Names in ``space``, ``fixed``, ``x0`` and ``constraints`` are keys of model, train, preprocess.
    """

    space: dict[str, Dimension] = Field(
        min_length=1, description="what is varied: a dimension by the name of each key"
    )
    fixed: dict[str, Any] = Field({}, description="held at a value, in the final training too")
    constraints: list[str] = Field(
        [], description="what must hold in each trial, such as 'embed_dim * depth <= 256'"
    )
    x0: list[dict[str, Any]] = Field(
        [], description="tried first, after the configuration itself; what is left out is as there"
    )
    n_calls: int = Field(20, ge=2, le=MOST_PARTS, description="trials, those of the start included")
    n_initial_points: int = Field(
        6, ge=0, le=MOST_PARTS, description="drawn by the generator, after x0"
    )
    initial_point_generator: Literal["random", "lhs", "sobol", "halton", "hammersly", "grid"] = (
        Field("lhs", description="design of the first points")
    )
    acquisition: Literal["gp_hedge", "EI", "PI", "LCB"] = Field(
        "gp_hedge", description="what the next point maximises"
    )
    start_seeds: int = Field(
        5,
        ge=1,
        le=MOST_PARTS,
        description="trainings of the start, whose scatter is the noise of a trial",
    )
    noise: float | None = Field(
        None, gt=0, description="s.d. of log10(1 - metric); null: measured if start_seeds > 1"
    )
    metric: Literal["roc_auc", "macro_roc_auc", "average_precision", "balanced_accuracy"] = Field(
        "roc_auc", description="of the split opt: what is maximised"
    )
    seed: int | None = Field(
        None, ge=0, le=LARGEST_SEED, description="null: that of the configuration"
    )
    n_train: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="training images of a trial; null: all"
    )
    epochs: int = Field(8, ge=1, le=MOST_EPOCHS, description="of a trial")
    hopeless: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="a trial ends early if its validation curve is below this quantile of those of "
        "the points before it, by more than the noise; 0: none does",
    )
    patience: int = Field(2, ge=1, description="epochs before a trial may end early")
    candidates: int = Field(
        3, ge=1, le=MOST_PARTS, description="best trials that are trained anew, and the start"
    )
    candidate_seeds: int = Field(3, ge=2, le=MOST_PARTS, description="fresh seeds of each of them")
    parallel: int = Field(1, ge=1, le=MOST_PROCESSES, description="trials at once")
    random: bool = Field(False, description="random points instead of the Gaussian process's")
    max_failures: int = Field(5, ge=1, description="as many failed trials in a row end the search")

    @field_validator("space")
    @classmethod
    def _values_allowed(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        """Refuse what the key would refuse; the choices get the type of the key."""
        fields = tuned_fields()
        fitting, lines = {}, []
        for name, entry in space.items():
            if name not in fields:
                lines.append((name, _not_tuned(name)))
                continue
            kind = fields[name].annotation
            ranges = {int: ["integer"], float: ["real", "integer"]}.get(kind, [])
            if entry.type not in [*ranges, "categorical"]:
                expected = " or ".join([*ranges, "categorical"])
                lines.append((f"{name}.type", f"found {entry.type!r}; expected {expected}"))
                continue
            keys = ("choices",) if isinstance(entry, Categorical) else ("low", "high")
            value = value_type(fields[name])
            shape = dict[str, list[value] if "choices" in keys else value]
            check = TypeAdapter(shape, config=Section.model_config)
            try:
                update = check.validate_python({key: getattr(entry, key) for key in keys})
            except ValidationError as error:
                lines += report(error, None, name)
                continue
            choices = update.get("choices", [])
            if len(set(choices)) < len(choices):
                found = f"found {shown(choices)}; expected each value once"
                lines.append((f"{name}.choices", found))
            fitting[name] = entry.model_copy(update=update) if choices else entry
        if lines:
            raise wrong(lines)
        return fitting

    @field_validator("fixed")
    @classmethod
    def _fixed_allowed(cls, fixed: dict[str, Any]) -> dict[str, Any]:
        """Refuse a value that the key would refuse."""
        fields, lines, fitting = tuned_fields(), [], {}
        for name, value in fixed.items():
            if name not in fields:
                lines.append((name, _not_tuned(name)))
                continue
            try:
                check = TypeAdapter(value_type(fields[name]), config=Section.model_config)
                fitting[name] = check.validate_python(value)
            except ValidationError as error:
                lines += report(error, None, name)
        if lines:
            raise wrong(lines)
        return fitting

    @field_validator("constraints")
    @classmethod
    def _readable(cls, constraints: list[str]) -> list[str]:
        for text in constraints:
            Constraint(text)
        return constraints

    @model_validator(mode="after")
    def _consistent(self) -> Tune:
        lines = [
            (f"fixed.{name}", "is in space, too; expected one of both")
            for name in self.fixed
            if name in self.space
        ]
        for k, point in enumerate(self.x0):
            for name, value in point.items():
                if name not in self.space:
                    known = ", ".join(self.space)
                    lines.append((f"x0.{k}.{name}", f"not in space; expected some of: {known}"))
                elif expected := outside(value, self.space[name]):
                    lines.append((f"x0.{k}.{name}", f"found {shown(value)}; expected {expected}"))
        known = tuned_fields()
        for k, text in enumerate(self.constraints):
            if absent := sorted(Constraint(text).names - known.keys()):
                lines.append((f"constraints.{k}", f"{absent[0]}: {_not_tuned(absent[0])}"))
        if lines:
            raise wrong(lines)
        if self.n_calls <= (first := self.start_seeds + len(self.x0) + self.n_initial_points):
            raise ValueError(
                f"n_calls = {self.n_calls}: expected more than start_seeds, x0 and "
                f"n_initial_points together, {first}: the process chooses only what is left"
            )
        return self


def _not_tuned(name: str) -> str:
    found = f"has no effect: {NOT_TUNED[name]}" if name in NOT_TUNED else "unknown key"
    return f"{found}; expected one of: {', '.join(sorted(tuned_fields()))}"


def outside(value: Any, entry: Dimension) -> str | None:
    """Return what was expected of a value that lies outside a dimension, None if it does not."""
    if isinstance(entry, Categorical):
        return None if value in entry.choices else f"one of {shown(entry.choices)}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and entry.low <= value <= entry.high:
        return None
    return f"a value from {entry.low} to {entry.high}"


class Constraint:
    """A comparison of parameters, such as ``embed_dim % num_heads == 0``, called with their values.

    Numbers, names, arithmetic, comparisons, and, or, not; ValueError for anything else, and for
    what could fill the memory: a power of a power, arithmetic with text.
    """

    ALLOWED = (
        *(ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Constant),
        *(ast.boolop, ast.unaryop, ast.operator, ast.cmpop, ast.expr_context, ast.Tuple, ast.List),
    )
    LONGEST = 200  # characters

    def __init__(self, text: str):
        if len(text) > self.LONGEST:
            raise ValueError(f"{shown(text)}: expected up to {self.LONGEST} characters")
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError as error:
            raise ValueError(f"{shown(text)}: is no expression ({error.msg})") from error
        nodes = list(ast.walk(tree))
        strange = [node for node in nodes if not isinstance(node, self.ALLOWED) or _unbounded(node)]
        if strange:
            found = type(strange[0]).__name__
            raise ValueError(f"{shown(text)}: found {found}; expected numbers, names, comparisons")
        self.text = text
        self.names = {node.id for node in nodes if isinstance(node, ast.Name)}
        self._code = compile(tree, "<constraint>", "eval")

    def __call__(self, params: dict[str, Any]) -> bool:
        """Return whether it holds; InputError if it cannot be computed."""
        try:
            return bool(eval(self._code, {"__builtins__": {}}, params))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise InputError(f"the constraint {shown(self.text)}: {error}") from error


def _unbounded(node: ast.AST) -> bool:
    """Return whether an operation may give far more than its operands: 9 ** 9 ** 9, 'a' * 10."""
    if not isinstance(node, ast.BinOp):
        return False
    operands = (node.left, node.right)
    if isinstance(node.op, ast.Pow | ast.LShift):
        constants = [part.value for part in operands if isinstance(part, ast.Constant)]
        simple = all(isinstance(part, ast.Name | ast.Constant) for part in operands)
        return not simple or any(type(v) not in (int, float) or v > 1000 for v in constants)
    named = [part.id for part in operands if isinstance(part, ast.Name)]
    texts = [name for name in named if name in _texts()]
    return bool(texts) or any(
        isinstance(part, ast.Tuple | ast.List)
        or (isinstance(part, ast.Constant) and not isinstance(part.value, int | float))
        for part in operands
    )


def _texts() -> set[str]:
    """Return the names of the parameters that are no numbers."""
    numbers = (bool, int, float)
    return {name for name, field in tuned_fields().items() if field.annotation not in numbers}
