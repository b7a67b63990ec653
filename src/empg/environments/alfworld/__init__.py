"""ALFWorld: household tasks in text. See ``docs/alfworld.md``."""

from empg.environments.alfworld.game import Game
from empg.environments.alfworld.pddl import Problem

__all__ = ["Game", "Problem"]
