"""Speed of the passage index: 20,000 made-up passages of a hundred words, as long as wiki-18's.

    python benchmarks/deepsearch_index.py [--passages 20000] [--queries 2000]

Words are drawn from a vocabulary of 50,000 by Zipf's law, seeded. Building is timed on the wall clock and in CPU
seconds of the process, reading and checking the corpus file included; queries of six words, top 3, in CPU seconds.
"""

import argparse
import json
import tempfile
import time
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from random import Random

from empg.environments.deepsearch.search.index import Index

VOCABULARY = 50_000
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def make_text(random: Random, cumulated: list[float], words: int) -> list[str]:
    """Words by Zipf's law; the n-th word is the number n in syllables."""
    ranks = [bisect(cumulated, random.random() * cumulated[-1]) for _ in range(words)]
    return [word(rank) for rank in ranks]


def word(rank: int) -> str:
    """A number as syllables, at least two."""
    rank, syllable = divmod(rank, len(SYLLABLES))
    return SYLLABLES[syllable] + (word(rank) if rank else "s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=2_000)
    options = parser.parse_args()
    random = Random(0)
    cumulated = list(accumulate(1 / (rank + 2) for rank in range(VOCABULARY)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for i in range(options.passages):
                title, text = make_text(random, cumulated, 3), make_text(random, cumulated, 100)
                file.write(json.dumps({"id": str(i), "contents": f'"{" ".join(title)}"\n{" ".join(text)}'}) + "\n")
        queries = [" ".join(make_text(random, cumulated, 6)) for _ in range(options.queries)]

        wall, cpu = time.perf_counter(), time.process_time()
        index = Index.build(folder / "corpus.jsonl", folder / "index")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in (folder / "index").iterdir())
        print(f"build: {len(index):,} passages in {wall:.2f} s ({cpu:.2f} CPU s), {size / 1e6:.1f} MB")

        wall, cpu = time.perf_counter(), time.process_time()
        Index.build(folder / "corpus.jsonl", folder / "index")
        print(f"reuse: {1e3 * (time.perf_counter() - wall):.1f} ms ({1e3 * (time.process_time() - cpu):.1f} CPU ms)")

        cpu = time.process_time()
        found = sum(len(index.search(query, 3)) for query in queries)
        cpu = time.process_time() - cpu
        mean, hits = 1e3 * cpu / len(queries), found / len(queries)
        print(f"query: {mean:.3f} CPU ms mean of {len(queries):,}, {hits:.2f} hits each")


if __name__ == "__main__":
    main()
