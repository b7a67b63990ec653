"""Good files damaged at random, and texts of agents, by Hypothesis: a few a reader in the tests, many by `make fuzz`.

    python -m tests.fault.damage corpus 4000

prints what became of them as JSON. A failure ends it with Hypothesis' report and an exit code.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empg.config import ENVIRONMENTS
from empg.environments.datasets import open_dataset
from empg.errors import EmpgError

from .readers import READERS, Reader

BOUND = 20.0  # seconds an input may take


@dataclass
class Tally:
    """What became of the inputs."""

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds

    @contextmanager
    def one(self):
        """Count an input that is read within."""
        start = time.perf_counter()
        try:
            yield
        except EmpgError as error:
            self.refused += 1
            if len(str(error)) >= 5000:
                raise AssertionError(f"a message of {len(str(error))} characters") from error
        finally:
            self.inputs += 1
            self.slowest = max(self.slowest, time.perf_counter() - start)


def many(examples: int, *, fixed: bool) -> Callable[[Any], Any]:
    """So many examples, the same ones every time if ``fixed``."""
    return settings(
        max_examples=examples,
        deadline=timedelta(seconds=BOUND),
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def damaged(random: Random, content: bytes, value: Any) -> bytes:
    """A file with a slice deleted, doubled or overwritten, or with one value of its JSON replaced."""
    edge = min(len(content), 8192)  # where large files have their headers and footers
    start = random.choice((random.randrange(edge + 1), len(content) - random.randrange(edge + 1)))
    start = random.choice((start, random.randrange(len(content) + 1)))
    end = min(len(content), start + random.randrange(1, 60))
    match random.randrange(6):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:end] + content[start:]
        case 2:
            return content[:start] + random.randbytes(end - start) + content[end:]
        case 3:
            return content[:start] + json.dumps(value).encode() + content[end:]
    try:
        parts = [json.loads(line) for line in content.splitlines()]
    except ValueError:
        return content[:start]
    place: Any = parts
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            break
        key = random.choice(keys)
        if not isinstance(place[key], dict | list) or random.random() < 0.2:
            place[key] = value
            break
        place = place[key]
    return "\n".join(json.dumps(part) for part in parts).encode()


def damage(reader: Reader, folder: Path, examples: int, *, fixed: bool) -> Tally:
    """Damage one file a time."""
    tally = Tally()
    for name, content in reader.files.items():
        (folder / name).write_bytes(content)
    reader.read(folder)  # the good files are good

    @many(examples, fixed=fixed)
    @given(st.integers(0, 2**64).map(Random), anything)
    def run(random: Random, value: Any) -> None:
        hurt = random.choice(sorted(reader.files))
        (folder / hurt).write_bytes(damaged(random, reader.files[hurt], value))
        with tally.one():
            reader.read(folder)
        (folder / hurt).write_bytes(reader.files[hurt])

    run()
    return tally


TALK = ["<search>", "</search>", "<answer>", "<action>", "</action>", "search[", "click[", "]", "<think>", "go to "]


def talk(name: str, folder: Path, examples: int, *, fixed: bool) -> Tally:
    """Say anything to an environment, which answers whatever is said."""
    tally, sizes = Tally(), dict.fromkeys(ENVIRONMENTS[name].data(type=name).sizes.model_dump(), 2)
    dataset = open_dataset(ENVIRONMENTS[name].data(type=name, sizes=sizes), folder)
    dataset.write(folder)
    arena, task = dataset.arena(10), dataset.tasks("train")[0]
    environment = arena.make()
    environment.reset(task)

    @many(examples, fixed=fixed)
    @given(st.lists(st.sampled_from(TALK) | st.text(alphabet=st.characters(), max_size=30), max_size=8).map("".join))
    def run(text: str) -> None:
        with tally.one():
            (result,) = arena.step_all([environment], [arena.parse_action(text)])
        assert len(result.observation) < 100_000
        if result.done:
            environment.reset(task)

    run()
    assert tally.refused == 0
    return tally


def main() -> None:
    """Damage the files of the reader, or talk to the environment, that the first argument names."""
    name, examples = sys.argv[1], int(sys.argv[2])
    with TemporaryDirectory() as work:
        folder = Path(work)
        if name in ENVIRONMENTS:
            tally = talk(name, folder, examples, fixed=False)
        else:
            tally = damage(READERS[name](), folder, examples, fixed=False)
    print(json.dumps(asdict(tally) | {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
