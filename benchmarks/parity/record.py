"""Records transcripts of the public engine for the golden test.

    python benchmarks/parity/record.py

Plays a generated game of every task type in either profile, the games of ``quirks.py`` and the examples in the test
data in the public engine, and writes ``tests/golden/alfworld_transcripts.jsonl.xz``: one line per game with the texts
of its file (the domain and the grammar only where they are not alfworld's own; none for an example) and its events, as
``public.py`` describes them.
"""

import json
import lzma
import os
import tempfile
from pathlib import Path

from quirks import write_quirks
from run import PROFILES, ROOT, examples, play_public, walkthrough

from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR
from empg.environments.alfworld.engine.grammar import split_task
from empg.environments.alfworld.generated.writer import write_dataset

GOLDEN = ROOT / "tests" / "golden" / "alfworld_transcripts.jsonl.xz"
STEPS = 50


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for profile in PROFILES:
            write_dataset(folder / profile, profile=profile, seed=0, sizes={"valid_unseen": 6})
        write_quirks(folder / "quirks")
        (folder / "examples").symlink_to(examples())
        paths = [path for part in sorted(folder.iterdir()) for path in sorted(part.rglob("game.tw-pddl"))]
        transcripts = play_public(paths, STEPS, len(os.sched_getaffinity(0)), solutions=[walkthrough(p) for p in paths])
        lines = []
        for path, transcript in zip(paths, transcripts, strict=True):
            game = json.loads(path.read_text())
            name = str(path.parent.relative_to(folder))
            grammar, game["task"] = split_task(game.pop("grammar"))
            if grammar != GRAMMAR:
                game["grammar"] = grammar
            if game["pddl_domain"] == DOMAIN:
                del game["pddl_domain"]
            line = {"name": name, "game": game, "events": transcript["events"]}
            if name.startswith("examples/"):
                del line["game"]
            lines.append(json.dumps(line) + "\n")
    GOLDEN.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{GOLDEN}: {len(lines)} games, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
