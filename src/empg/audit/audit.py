"""An audit of results: checks the hash of every file and recomputes the numbers of a run from their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from empg.audit.recompute import RECOMPUTED, Numbers
from empg.errors import AuditError, DataError, UserError
from empg.files import file_digest, read_json
from empg.pipeline.commands import REPORTS, command, data_set, model
from empg.pipeline.origin import commit
from empg.provenance import MANIFEST, digest, json_digest

IN_DETAIL = 2  # up to so many folders, everything is printed: a run's training and evaluation
FIRST = 5  # differences that are printed for each check


class Check(NamedTuple):
    """One thing that was checked: what it is, and how it differs. No differences: it agrees."""

    what: str
    differences: list[str]
    done: bool = True  # false: something that the check needs is missing


@dataclass(frozen=True, slots=True)
class Audit:
    """The folder of one stage's results within its study."""

    study: Path
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.relative_to(self.study).as_posix()

    def facts(self, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What the folder is and where it comes from."""
        config = manifest["config"]
        yield "command", _known(lambda: command(self.study, self.name, self._data()))
        yield "commit", self.commit()
        yield "config", json_digest(config)
        if data := _known(self._data):
            yield "data", f"{data}, {_known(lambda: read_json(self._identity())['md5'])} (DVC)"
        if "seed" in config:
            yield "seed", str(config["seed"])
        yield "versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())

    def commit(self) -> str:
        """The commit that the timing file names."""
        return _known(lambda: commit(self.folder) or "unknown")

    def checks(self, manifest: dict[str, Any]) -> Iterator[Check]:
        """Every check of the folder. What cannot be read differs, and the other checks go on."""
        yield from _attempt("files can be read", partial(self._files, manifest["outputs"]))
        yield from _attempt("settings can be read", partial(self._settings, manifest["config"]))
        for name, recorded in manifest["inputs"].items():
            yield from _attempt(f"input {name} can be read", partial(self._unchanged, name, recorded))
        if recompute := RECOMPUTED.get(manifest["stage"]):
            yield from _attempt("rows can be read", lambda: map(_compare, recompute(self.folder, manifest)))

    def _settings(self, recorded: dict[str, Any]) -> Iterator[Check]:
        path = self.study / "config" / ("study.json" if self.name in REPORTS else f"{self.name}.json")
        if path.exists():
            differs = [] if self._configured(path) == recorded else [f"{path} has other settings now"]
            yield Check(f"settings are those of {path}", differs)

    def _unchanged(self, name: str, recorded: str) -> Iterator[Check]:
        """Whether an input is the one that the stage read."""
        source = self._input(name)
        now = digest(source) if source.exists() else None
        differs = [f"{source}: expected {recorded}, found {now}"] if now and now != recorded else []
        yield Check(f"input {name} is {source}, {recorded[:12]}…", differs, done=now is not None)

    def _files(self, outputs: dict[str, str]) -> Iterator[Check]:
        differences = []
        for name, recorded in outputs.items():
            path = self.folder / name
            now = file_digest(path) if path.is_file() else "no such file"
            if now != recorded:
                differences.append(f"{path}: expected SHA-256 {recorded}, found {now}")
        yield Check(f"{len(outputs)} files have the SHA-256 that {MANIFEST} names", differences)

    def _configured(self, path: Path) -> Any:
        if self.name not in REPORTS:
            return read_json(path)
        from empg.config import Study, parse

        return parse(Study, read_json(path), str(path)).model_dump(mode="json")

    def _data(self) -> str:
        """The name of the folder's data set; "" where it has none."""
        return data_set(self.study, self.name)

    def _identity(self) -> Path:
        """The file that records DVC's hash of the folder's task data."""
        return self.study.parent / "data" / f"{self._data()}.json"

    def _input(self, name: str) -> Path:
        """The path of an input of this name in the pipeline's layout of results."""
        environment = self.study / self.name.split("/", maxsplit=1)[0]
        if name == "data":
            identity = self._identity()
            place = read_json(identity)["path"] if identity.exists() else f"data/{self._data()}"
            return self.study.resolve().parents[1] / str(place)
        if name == "model":
            return self.study / model(self.name)
        if self.name == "testbed/report":
            return self.folder.parent / name
        return environment / name if name == "rollouts" else self.study / name


def run(path: Path, out: Callable[[str], None]) -> None:
    """Audit every folder of results at or under ``path`` and give ``out`` the lines of the account.

    A folder whose manifest cannot be read counts as a difference, and the audit goes on with the next.
    Raises :class:`AuditError` when something differs, :class:`DataError` when there are no results.
    """
    audits = folders(path)
    found = 0
    for study, folder in audits:
        audit = Audit(study, folder)
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            found += 1
            out(f"{folder}\n  DIFFERS   {MANIFEST} can be read\n            {error}")
            continue
        checks = [*audit.checks(manifest)]
        found += sum(len(check.differences) for check in checks)
        for line in report(audit, manifest, checks, detailed=len(audits) <= IN_DETAIL):
            out(line)
    if found:
        raise AuditError(f"{path}: expected what was recorded, found {found} differences; they are listed above")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's manifest. Raises :class:`DataError` when it is missing, cut short or lacks an entry."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: expected an object, found {type(manifest).__name__}")
    for key, kind in {"stage": str, "config": dict, "inputs": dict, "outputs": dict, "versions": dict}.items():
        if not isinstance(found := manifest.get(key), kind):
            raise DataError(f"{path}: {key}: expected {kind.__name__}, found {type(found).__name__}")
    return manifest


def _known(fact: Callable[[], str]) -> str:
    """A fact that nothing depends on, or "unknown" where its file cannot be read."""
    try:
        return fact()
    except UserError:
        return "unknown"


def _attempt(what: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except Exception as error:  # whatever a damaged file causes, the audit reports it and goes on
        known = isinstance(error, (UserError, OSError))
        yield Check(what, [str(error) if known else f"{type(error).__name__}: {error}"])


def report(audit: Audit, manifest: dict[str, Any], checks: list[Check], *, detailed: bool) -> Iterator[str]:
    """The lines about one folder: every check, or a summary in one line with what differs."""
    if detailed:
        yield str(audit.folder)
        for key, text in audit.facts(manifest):
            yield f"  {key:<9} {text}"
    elif not any(check.differences for check in checks):
        count, made = sum(check.done for check in checks), audit.commit()[:12]
        yield f"{audit.folder}: {count} checks agree; {len(manifest['outputs'])} files; commit {made}"
    else:
        yield str(audit.folder)
    for check in checks:
        state = "DIFFERS" if check.differences else "agrees" if check.done else "missing"
        if detailed or check.differences:
            yield f"  {state:<9} {check.what}"
        for difference in islice(check.differences, FIRST):
            yield f"            {difference}"
        if len(check.differences) > FIRST:
            yield f"            and {len(check.differences) - FIRST} more"


def folders(path: Path) -> list[tuple[Path, Path]]:
    """(study's folder, folder of results) of all results at or under ``path``.

    Raises :class:`DataError` when there are none; its message lists the results nearby.
    """
    found = [(study, file.parent) for file in sorted(path.rglob(MANIFEST)) if (study := _study(file.parent))]
    if found:
        return found
    near = next(place for place in (path, *path.parents) if place.is_dir())
    there = sorted({str(_run(file.parent)) for file in near.rglob(MANIFEST) if _study(file.parent)})
    listing = "\n  ".join(there or ["none"])
    raise DataError(f"{path}: expected a run's folder, found no results; there are\n  {listing}")


def _study(folder: Path) -> Path | None:
    return next((place for place in folder.parents if (place / "config" / "study.json").exists()), None)


def _run(folder: Path) -> Path:
    return folder.parent if folder.name in ("train", "evaluate") else folder


def _compare(numbers: Numbers) -> Check:
    recorded, again = numbers.recorded, numbers.recomputed
    if again is None:
        return Check(f"{numbers.what}; not computed again", [], done=False)
    differences = [
        f"{key}: {numbers.file} says {recorded.get(key)}, the rows say {again.get(key)}"
        for key in dict.fromkeys([*recorded, *again])
        if not _same(recorded.get(key), again.get(key), numbers.tolerance)
    ]
    how = f"within {numbers.tolerance:g}" if numbers.tolerance else "to the last bit"
    return Check(f"{numbers.what}, {how}, from {numbers.rows}", differences)


def _same(recorded: Any, again: Any, tolerance: float) -> bool:
    if tolerance and isinstance(recorded, float) and isinstance(again, float):
        return math.isclose(recorded, again, rel_tol=tolerance, abs_tol=tolerance)
    return bool(recorded == again)
