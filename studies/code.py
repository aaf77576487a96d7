"""The code that a rule runs, as a hash: a rule is run again if code changes that it runs.

Read from the source without importing it: a module, and the modules of ``vitdm`` and ``studies``
that it imports, directly or not. Comments, docstrings and the layout of lines do not count.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vitdm", "studies")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Code:
    """The code of the modules below a folder.

    ``parsed`` is what earlier calls have found, by the sha256 of the source: the hash of its syntax
    and the names that it imports. To parse all modules takes seconds.
    """

    def __init__(self, root: Path = ROOT, parsed: dict[str, list] | None = None):
        self.root, self.parsed = root, dict(parsed or {})
        self._paths: dict[str, Path | None] = {}
        self._known: dict[Path, tuple[str, set[Path]]] = {}

    def of(self, name: str) -> str:
        """Return the hash of a module, or of the modules that a script (``….py``) imports."""
        script = self.root / name
        files = self.reached(name) - {script}
        lines = [f"{path.relative_to(self.root)} {self._read(path)[0]}\n" for path in sorted(files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def reached(self, name: str) -> set[Path]:
        """Return the files of a module, or a script, and of what it imports, directly or not."""
        script = name.endswith(".py")
        if not script and self.file_of(name) is None:
            raise ValueError(f"{name}: found no such module below {self.root}")
        modules, left = set(), [self.root / name] if script else self._executed(name)
        while left:
            path = left.pop()
            if path not in modules:
                modules.add(path)
                left += self._read(path)[1]
        return modules

    def file_of(self, module: str) -> Path | None:
        """Return the file of a module, None if it is none of ours."""
        if module not in self._paths:
            self._paths[module] = self._find(module)
        return self._paths[module]

    def _find(self, module: str) -> Path | None:
        if module.partition(".")[0] not in PACKAGES:
            return None
        place = self.root.joinpath(*module.split("."))
        known = (place.with_suffix(".py"), place / "__init__.py")
        return next((path for path in known if path.is_file()), None)

    def _read(self, path: Path) -> tuple[str, set[Path]]:
        """Return the hash of a file's syntax, and the files that its imports execute."""
        if path not in self._known:
            source = path.read_text()
            key = hashlib.sha256(source.encode()).hexdigest()
            if key not in self.parsed:
                self.parsed[key] = _parse(source)
            digest, imports = self.parsed[key]
            files = {file for name in imports for file in self._executed(name)}
            self._known[path] = digest, files
        return self._known[path]

    def _executed(self, module: str) -> list[Path]:
        """Return the files that an import executes: the module, and the packages it lies in."""
        parts = module.split(".")
        names = [".".join(parts[: k + 1]) for k in range(len(parts))]
        return [file for name in names if (file := self.file_of(name))]


def _parse(source: str) -> list:
    """Return the hash of the syntax of a source, and the names that it imports."""
    tree = ast.parse(source)
    imports = sorted(set(_imports(tree)))
    for node in ast.walk(tree):
        documented = isinstance(node, DOCUMENTED)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return [hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports]


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield the names that are imported, but for those that only annotations need."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (entry.name for entry in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module
            yield from (f"{child.module}.{entry.name}" for entry in child.names)
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _imports(child)


class Watched:
    """The hashes that rules watch, by the names of their modules; those of the last run on demand.

    ``snakemake --config watch_code=false`` is for developing: nothing is run again for an edit.
    ``file`` keeps the hashes of the last run, and what was parsed for them.
    """

    def __init__(self, file: str | Path, watch: bool = True):
        self.file, self.hashes = Path(file), {}
        last = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._last = {} if watch else last.get("hashes", {})
        self._code = Code(parsed=last.get("parsed"))

    def __call__(self, name: str) -> str:
        """Return the hash of a module or script (``Code.of``)."""
        if name not in self.hashes:
            self.hashes[name] = self._last.get(name) or self._code.of(name)
        return self.hashes[name]

    def save(self) -> None:
        """Keep the hashes."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {"hashes": self.hashes, "parsed": self._code.parsed}
        self.file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
