"""Inputs for a reader that atheris (libFuzzer) invents, guided by which of our code they reach. `make fuzz` runs it.

    python -m tests.fault.coverage_guided corpus -runs=8000

An input is a byte that chooses one of the reader's files, and what stands in the file. The first inputs are the good
files. Exit code 0 when the reader understood each or refused it with its documented error; otherwise the input is kept
as ``build/fuzz/READER-…`` and its traceback is printed.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["empg", "gguf"]):
    from empg.errors import EmpgError

    from .readers import READERS

LIMITS = ["-timeout=20", "-rss_limit_mb=4096", "-len_control=0", "-print_final_stats=1"]


def main() -> None:
    """Fuzz the reader that the first argument names; libFuzzer gets the other ones."""
    name, *arguments = sys.argv[1:]
    files, read = READERS[name]()
    names = sorted(files)
    findings = Path("build", "fuzz")
    findings.mkdir(parents=True, exist_ok=True)
    logging.disable()

    with TemporaryDirectory() as work, TemporaryDirectory() as seeds:
        folder = Path(work)
        for index, file in enumerate(names):
            (folder / file).write_bytes(files[file])
            Path(seeds, file).write_bytes(bytes([index]) + files[file])
        read(folder)  # the good files are good

        def give(content: bytes) -> None:
            file = names[content[0] % len(names)] if content else names[0]
            (folder / file).write_bytes(content[1:])
            try:
                read(folder)
            except EmpgError:
                pass
            finally:
                (folder / file).write_bytes(files[file])

        longest = f"-max_len={2 * max(map(len, files.values())) + 1}"
        prefix = f"-artifact_prefix={findings}/{name.replace(' ', '_')}-"
        atheris.Setup([sys.argv[0], *LIMITS, longest, prefix, *arguments, seeds], give)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
