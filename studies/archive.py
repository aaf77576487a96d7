"""One archive (zip) of a run to deposit: code, what the article is made of, RO-Crate metadata.

``make article`` in the unpacked archive rebuilds the article, its figures and tables: all files
that the notebooks read are in it, and nothing else of the results but their sidecars, the executed
notebooks and the explorer. The metadata (RO-Crate 1.1 and its profile of process runs) are written
from the sidecars: which rule made a file, of what, with which commit and versions.
"""

from __future__ import annotations

import json
import mimetypes
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from studies.config import Config, load
from studies.contents import NOTEBOOKS
from studies.targets import Targets
from vitdm import provenance
from vitdm.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of each file in the archive: the same run gives the same bytes
#: of results that no notebook reads, but the article or the site
ALSO = ("config.yaml", "evaluation/evaluation.json", "dataset/catalog.csv")
SHOWN = ("notebooks/*.ipynb", "explorer.html")
#: kinds of files that mimetypes does not know everywhere
KINDS = {".npy": "application/octet-stream", ".safetensors": "application/octet-stream"}
KINDS |= {".ipynb": "application/x-ipynb+json", ".yaml": "application/yaml", ".csv": "text/csv"}


def intermediates(config: Config, results: str | None = None) -> list[str]:
    """Return the files from which the article is rebuilt; InputError if some are missing."""
    targets = Targets(config, results)
    named = {name for notebook in NOTEBOOKS for name in notebook.inputs(targets)}
    named = {name for name in named if Path(name).is_relative_to(targets.out)}
    named |= {f"{targets.out}/{name}" for name in ALSO}
    if absent := sorted(name for name in named if not Path(name).is_file()):
        raise InputError(f"{absent[0]}: missing, with {len(absent) - 1} more; run snakemake first")
    made = sidecars(targets.out)
    for file, content in made.items():
        beside = {str(file.with_name(name)) for name in content["outputs"]}
        if beside & named:  # notebooks read the answers of every network, by patterns
            named |= {name for name in beside if Path(name).is_file()}
    shown = [file for pattern in SHOWN for file in Path(targets.out).glob(pattern)]
    return sorted(named | {str(file) for file in [*made, *shown]})


def sidecars(results: str | Path) -> dict[Path, dict[str, Any]]:
    """Return the sidecars below a folder of results, by their files."""
    found = {}
    for file in sorted(Path(results).rglob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and {"rule", "inputs", "outputs"} <= content.keys():
            found[file] = content
    return found


def archive(config_file: Path, out: Path, *, results: str | None = None) -> list[str]:
    """Write the archive of a run and return the names of its files, in their order.

    Called in the repository, all changes committed: the code is that of the last commit.
    """
    config = load(config_file)
    kept = intermediates(config, results)
    code = _git("ls-tree", "-r", "--name-only", "HEAD").splitlines()
    if changed := _git("status", "--porcelain", "--untracked-files=no"):
        raise InputError(f"{changed.splitlines()[0]}: not committed; expected no changes")
    made = [str(file) for place in ("figures", "tables") for file in _made(config, results, place)]
    names = sorted({*code, *kept, *made})
    metadata = json.dumps(crate(names, Targets(config, results)), indent=2, sort_keys=True)
    with provenance.atomic(out) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        _put(packed, "ro-crate-metadata.json", metadata.encode())
        for name in names:
            _put(packed, name, Path(name).read_bytes())
    return ["ro-crate-metadata.json", *names]


def _made(config: Config, results: str | None, place: str) -> Iterable[Path]:
    """Return the figures or tables of a run that are not committed."""
    return sorted(Path(Targets(config, results).out, place).glob("*"))


def _put(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    packed.writestr(entry, content, compresslevel=1)


def _git(*words: str) -> str:
    answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if answer.returncode:
        raise InputError(f"git: {answer.stderr.strip()}; expected a clone of the repository")
    return answer.stdout


# ---------------------------------------------------------------------------------- the metadata


def crate(names: Iterable[str], targets: Targets) -> dict[str, Any]:
    """Return the RO-Crate metadata (JSON-LD) of files of the archive and of what made them."""
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    described = ROCrate()
    described.name, described.description = about["title"], " ".join(about["abstract"].split())
    described.license = f"https://spdx.org/licenses/{about['license']}"
    described.keywords = ", ".join(about["keywords"])
    described.datePublished = _git("log", "-1", "--format=%cI").strip()
    profile = ContextEntity(described, PROFILE, {"@type": "CreativeWork", "name": "Process Run"})
    described.add(profile)
    described.root_dataset["conformsTo"] = profile
    described.root_dataset["author"] = [
        described.add(ContextEntity(described, f"#author-{k}", {"@type": "Organization"} | author))
        for k, author in enumerate(about["authors"])
    ]
    files = {name: described.add_file(name, name, properties=_facts(name)) for name in names}
    tools: dict[str, Any] = {}
    for file, made in sidecars(targets.out).items():
        _action(described, file, made, files, tools)
    for file, made in (sidecars(targets.figures) | sidecars(targets.tables)).items():
        _action(described, file, made, files, tools, figure=True)
    return described.metadata.generate()


def _facts(name: str) -> dict[str, Any]:
    """Return what is said of a file: size, hash, kind."""
    kind = KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    size = str(Path(name).stat().st_size)
    return {"contentSize": size, "sha256": provenance.sha256(name), "encodingFormat": kind}


def _action(
    described: ROCrate,
    file: Path,
    made: Mapping[str, Any],
    files: Mapping[str, Any],
    tools: dict[str, Any],
    figure: bool = False,
) -> None:
    """Add how the files beside a sidecar were made; files that are not kept are left out."""
    commit = made.get("commit") or "unknown"
    if commit not in tools:
        versions = ", ".join(f"{k} {v}" for k, v in sorted((made.get("versions") or {}).items()))
        facts = {"@type": "SoftwareApplication", "name": "vitdm", "softwareVersion": commit}
        facts |= {"softwareRequirements": versions}
        tools[commit] = described.add(ContextEntity(described, f"#commit-{commit}", facts))
    outputs = [str(file.with_name(name)) for name in made["outputs"]]
    if figure:  # its sidecar has the name of the figure or table
        outputs = [str(file.with_suffix(end)) for end in (".png", ".pdf", ".csv")]
    results = [files[name] for name in [*outputs, str(file)] if name in files]
    facts = {"@type": "CreateAction", "name": made["rule"], "instrument": tools[commit]}
    facts["object"] = [files[name] for name in made["inputs"] if name in files]
    facts["result"] = results
    facts["description"] = "; ".join(
        f"{key}: {made[key]}"
        for key in ("caption", "seed", "config_sha256", "seconds")
        if made.get(key)
    )
    action = described.add(ContextEntity(described, f"#made-{file.as_posix()}", facts))
    described.root_dataset.append_to("mentions", action)
