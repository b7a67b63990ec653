"""Which commit a result was made from, found by content: manifests name the hashes of sources, not a commit.

So results of one source tree are the same whatever the commit is called, and a commit that was never made is not named.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from empg.files import read_json
from empg.pipeline.commands import data_set
from empg.provenance import PACKAGE, STAGES, json_digest, source_hashes

COMMITS = 1000  # newest ones that are searched


class History:
    """The commits of the git repository that this package lies in, if it lies in one; files are hashed once."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}  # git's name of a file's content → SHA-256
        self.found: dict[str, str | None] = {}

    def commit(self, manifest: dict[str, Any], study: Path) -> str | None:
        """The newest commit of which the files of a manifest's stage are those that it was made from.

        None where there is no git, no repository, or no such commit (results of uncommitted changes).
        """
        wanted = manifest["sources"]
        if wanted not in self.found:
            self.found[wanted] = self._search(wanted, _listings(manifest, study))
        return self.found[wanted]

    def _search(self, wanted: str, listings: list[list[str]]) -> str | None:
        commits = _git("log", f"--max-count={COMMITS}", "--format=%H", "--", PACKAGE.name).decode().split()
        for commit in commits:
            tree = _git("ls-tree", "-r", "-z", "--format=%(objectname) %(path)", commit, "--", PACKAGE.name).decode()
            objects = {path: name for name, _, path in (line.partition(" ") for line in tree.split("\0") if line)}
            for listing in listings:
                if objects.keys() >= set(listing):
                    self._hash(objects[path] for path in listing)
                    if json_digest({path: self.hashes[objects[path]] for path in listing}) == wanted:
                        return commit
        return None

    def _hash(self, objects: Iterable[str]) -> None:
        """Hash the contents that are not known yet."""
        names = [name for name in dict.fromkeys(objects) if name not in self.hashes]
        answer = _git("cat-file", "--batch", given="\n".join(names).encode()) if names else b""
        for name in names:  # a line "NAME blob SIZE", the content, a line's end
            head, _, rest = answer.partition(b"\n")
            size = int(head.split()[2])
            self.hashes[name] = hashlib.sha256(rest[:size]).hexdigest()
            answer = rest[size + 1 :]


def _listings(manifest: dict[str, Any], study: Path) -> list[list[str]]:
    """The names that a stage's source files may have: those of this tree, and those of the study's last run."""
    stage, config = manifest["stage"], manifest["config"]
    listings = [[*source_hashes(STAGES[stage], config.get("data", {}).get("type"))]]
    place = data_set(study, config["environment"]) if "environment" in config else ""
    recorded = study.parent / "sources" / place / f"{stage}.json"
    return [*listings, [*read_json(recorded)]] if recorded.exists() else listings


def _git(*arguments: str, given: bytes | None = None) -> bytes:
    """What git prints, with paths relative to the folder that holds the package; nothing where it fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *arguments], input=given, capture_output=True, check=False
        )
    except FileNotFoundError:
        return b""
    return result.stdout if result.returncode == 0 else b""
