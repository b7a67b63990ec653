"""Each stage of the campaign's study as a command of its own, on the inputs of the finished study."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .results import NAME

STUDY = f"results/{NAME}"
METHOD = "grpo_empg/seed1"


class Stage(NamedTuple):
    """A command without its ``--out``, and the folder that the finished study has of it."""

    arguments: list[str]
    folder: str

    def command(self, out: Path) -> list[str]:
        """What to run, for another output folder."""
        return ["empg", *self.arguments, "--out", str(out)]


def _config(environment: str, name: str) -> list[str]:
    return ["--config", f"{STUDY}/config/{environment}/{name}.json"]


def _train(environment: str) -> Stage:
    folder = f"{STUDY}/{environment}"
    inputs = ["--data", f"data/{environment}", "--model", f"{folder}/warmstart/model"]
    config = _config(environment, f"{METHOD}/train")
    return Stage(["train", *config, *inputs, "--rollouts", f"{folder}/rollouts"], f"{folder}/{METHOD}/train")


_SHOP = ["--data", "data/shop"]
_WARM = ["--model", f"{STUDY}/shop/warmstart/model"]
_TRAINED = ["--model", f"{STUDY}/shop/{METHOD}/train/model"]
STAGES = {
    "data": Stage(["data", "shop"], "data/shop"),
    "warm start": Stage(["warmstart", *_config("shop", "warmstart"), *_SHOP], f"{STUDY}/shop/warmstart"),
    "rollouts": Stage(["rollouts", *_config("shop", "rollouts"), *_SHOP, *_WARM], f"{STUDY}/shop/rollouts"),
    "training": _train("shop"),
    "training by TRL": _train("rooms"),
    "evaluation": Stage(
        ["evaluate", *_config("shop", f"{METHOD}/evaluate"), *_SHOP, *_TRAINED], f"{STUDY}/shop/{METHOD}/evaluate"
    ),
    "report": Stage(["report", "--config", f"{STUDY}/config/study.json", "--results", STUDY], f"{STUDY}/report"),
}
