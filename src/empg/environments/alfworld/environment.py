"""ALFWorld as an environment: a task becomes a game, a game becomes an episode with a step limit."""

from __future__ import annotations

from empg.environments.alfworld.engine.game import Game
from empg.environments.alfworld.tasks import GameSource
from empg.environments.base import StepResult, Task
from empg.errors import EnvironmentStateError

_BANNER = "-= Welcome to TextWorld, ALFRED! =-"


class AlfworldEnvironment:
    """Plays the games of a source, each for at most ``max_steps`` actions.

    The reward is 1.0 on the step that wins and 0.0 otherwise. Instances are cheap and share no state.
    """

    def __init__(self, source: GameSource, max_steps: int) -> None:
        self.source = source
        self.max_steps = max_steps
        self._game: Game | None = None
        self._steps = 0
        self._done = True

    def reset(self, task: Task) -> str:
        """Start the task's episode and return the room and the task, without the game's banner.

        Raises :class:`~empg.errors.DataError` if the source has no such task.
        """
        self._game = self.source.game(task)
        self._steps = 0
        self._done = False
        return self._game.reset().removeprefix(_BANNER).strip()

    def step(self, action: str | None) -> StepResult:
        """Play one action; None stands for a step without a readable action and is answered like any unknown one.

        Raises :class:`~empg.errors.EnvironmentStateError` before the first reset and once the episode has ended.
        """
        if self._game is None or self._done:
            raise EnvironmentStateError("alfworld: expected reset() before step(), found no episode in progress")
        result = self._game.step(action or "")
        self._steps += 1
        self._done = result.done or self._steps >= self.max_steps
        return StepResult(result.observation, float(self.won), self._done, result.invalid)

    @property
    def admissible_actions(self) -> list[str]:
        """The actions that the game would not refuse now, sorted; none before the first reset or after the end."""
        return [] if self._game is None or self._done else self._game.admissible_actions

    @property
    def limit(self) -> str | None:
        """``step_limit`` once the steps are used up without success."""
        return "step_limit" if self._done and self._steps >= self.max_steps and not self.won else None

    @property
    def score(self) -> float:
        """1.0 if the task is done: there is no denser score."""
        return float(self.won)

    @property
    def metrics(self) -> dict[str, float]:
        """Nothing beside the outcome."""
        return {}

    @property
    def won(self) -> bool:
        """Whether the task is done."""
        return self._game is not None and self._game.won
