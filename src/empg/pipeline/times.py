"""How long each job of a study took and how much memory, from the timing files of its stages."""

from __future__ import annotations

from pathlib import Path

from empg.config import Study, parse
from empg.errors import DataError
from empg.files import read_json
from empg.timing import PEAK


def table(results: Path) -> str:
    """One line per job, in the order in which jobs end: begin, end, wall time and CPU time in seconds, peak in MB.

    The modification time of a timing file is the end of its job. A resumed job has the times of all its processes, so
    it seems to begin later than it did. Raises :class:`DataError` when nothing has run.
    """
    paths = sorted(results.rglob("*timing.json"))
    if not paths:
        raise DataError(f"{results}: expected the results of a study, found no timing.json")
    config = results / "config" / "study.json"
    study = parse(Study, read_json(config), str(config))
    data = (results.parent / "data" / f"{study.data_set(name)}.timing.json" for name in study.environments)
    paths += [path for path in dict.fromkeys(data) if path.exists()]
    rows = []
    for path in paths:
        timing = read_json(path)
        end, wall = path.stat().st_mtime, timing["wall_seconds"] + timing.get("startup_seconds", 0.0)
        cpu, peak = timing.get("cpu_seconds"), timing.get(PEAK)
        part = path.relative_to(results.parent).as_posix()
        name = part.removesuffix("timing.json").rstrip("./")
        processes = timing.get("processes", 1)
        resumed = f"  (resumed: {processes} processes)" if processes > 1 else ""
        rows.append((end - wall, end, wall, _shown(cpu, ".1f"), _shown(peak and peak / 1e6, ".0f"), f"{name}{resumed}"))
    rows.sort(key=lambda row: row[1])
    start = min(row[0] for row in rows)
    lines = [f"{'begin':>7} {'end':>7} {'wall':>7} {'CPU':>7} {'MB':>6}  job"]
    for begin, end, wall, cpu, peak, part in rows:
        lines.append(f"{begin - start:7.0f} {end - start:7.0f} {wall:7.1f} {cpu:>7} {peak:>6}  {part}")
    return "\n".join([*lines, f"{rows[-1][1] - start:.0f} s from the begin of the first job to the end of the last"])


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
