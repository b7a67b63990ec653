"""WebShop as an environment: a task becomes a goal, a goal becomes a session in the shop with a step limit."""

from __future__ import annotations

from empg.environments.base import StepResult, Task
from empg.environments.webshop.engine.session import Mode, Session
from empg.environments.webshop.tasks import GoalSource
from empg.errors import EnvironmentStateError

_PARTS = ("r_type", "r_att", "r_option", "r_price")


class WebShopEnvironment:
    """Plays the goals of a source, each for at most ``max_steps`` actions.

    The reward is 1.0 on the purchase that scores 1 and 0.0 otherwise. Instances are cheap. They share the read-only
    shop and no state.
    """

    def __init__(self, source: GoalSource, max_steps: int, mode: Mode = "text_rich") -> None:
        self.source = source
        self.max_steps = max_steps
        self.mode: Mode = mode
        self._session: Session | None = None
        self._steps = 0
        self._done = True

    def reset(self, task: Task) -> str:
        """Start the task's episode and return the search page with the instruction, without white space around it.

        Raises :class:`~empg.errors.DataError` if the source has no such task.
        """
        self._session = self.source.shop.session(self.source.goal(task), self.mode)
        self._steps = 0
        self._done = False
        return self._session.reset().strip()

    def step(self, action: str | None) -> StepResult:
        """Play one action; None stands for a step without a readable action and is answered like any invalid one.

        Raises :class:`~empg.errors.EnvironmentStateError` before the first reset and once the episode has ended.
        """
        if self._session is None or self._done:
            raise EnvironmentStateError("webshop: expected reset() before step(), found no episode in progress")
        result = self._session.step(action or "")
        self._steps += 1
        self._done = result.done or self._steps >= self.max_steps
        reward = float(self.score == 1.0)
        return StepResult(result.observation.strip(), reward, self._done, result.invalid)

    @property
    def admissible_actions(self) -> list[str]:
        """What would not be refused now, a search as ``search[<your query>]``; none outside an episode."""
        if self._session is None or self._done:
            return []
        available = self._session.available_actions
        clicks = [f"click[{name}]" for name in available["clickables"] if name != "search"]
        return ["search[<your query>]"] * available["has_search_bar"] + clicks

    @property
    def limit(self) -> str | None:
        """``step_limit`` once the steps are used up without a purchase."""
        bought = self._session is not None and self._session.score is not None
        return "step_limit" if self._done and self._steps >= self.max_steps and not bought else None

    @property
    def score(self) -> float:
        """WebShop's score of the purchase, in [0, 1]; 0.0 while nothing is bought."""
        score = None if self._session is None else self._session.score
        return 0.0 if score is None else score.total

    @property
    def metrics(self) -> dict[str, float]:
        """The parts of the score, ``r_type``, ``r_att``, ``r_option`` and ``r_price``; 0.0 while nothing is bought.

        ``r_option`` is 1.0 for a purchase whose goal names no option: there is none to miss.
        """
        score = None if self._session is None else self._session.score
        if score is None:
            return dict.fromkeys(_PARTS, 0.0)
        parts = {name: getattr(score, name) for name in _PARTS}
        return {name: 1.0 if part is None else float(part) for name, part in parts.items()}
