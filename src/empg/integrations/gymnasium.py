"""Every registered environment as a ``gymnasium.Env`` of texts: importing this module registers them.

``empg/ALFWorld-v0``, ``empg/WebShop-v0`` and ``empg/DeepSearch-v0``, and ``empg/NAME-v0`` for each environment that
another package registered under NAME. Needs gymnasium (https://gymnasium.farama.org) and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium

from empg.config import ENVIRONMENTS
from empg.errors import ConfigError
from empg.integrations.gymnasium_text import AnyText
from empg.integrations.splits import TRAIN, Split, open_dataset

NAMES = {"alfworld": "ALFWorld", "webshop": "WebShop", "deepsearch": "DeepSearch"}
REWARDS = ("outcome", "score")
_CUT = " …"


class TextEnv(gymnasium.Env[str, str]):
    """A registered environment. Observations and actions are texts.

    ``reset(seed=…)`` draws the task; ``options={"task": id, "split": name}`` names it instead. An episode that ends by
    itself is terminated, and one that a limit ends (see ``stop_reason``) is truncated.

    ``info`` holds ``environment``, ``split``, ``task`` (its id), ``type``, ``score`` (in [0, 1]), ``metrics``,
    ``invalid`` (whether the environment refused the action), ``stop_reason`` (``success``, ``failure`` or the limit's
    name; ``""`` before the end) and, where the environment lists them, ``admissible_actions``.

    Args:
        environment: the name of the registration, such as ``alfworld``.
        split: the split that tasks are drawn from.
        data: a folder that ``empg data`` wrote; see :func:`~empg.integrations.splits.open_dataset`.
        settings: the settings of the data set, without ``data``.
        interface: what agents see and may do.
        max_steps: the most steps of an episode.
        reward: ``outcome``, 1.0 for success at the episode's end, or ``score``, the dense score then; 0.0 before.
        responses: whether actions are an agent's whole responses, in which the action is marked by tags.
        admissible_actions: whether info lists them, which takes time.
        max_length: the most characters of an observation; a longer one is cut and ends in " …".
        render_mode: ``ansi`` for the episode so far as text.

    Raises :class:`~empg.errors.ConfigError` and :class:`~empg.errors.DataError`, as ``open_dataset`` does.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - the form that gymnasium asks for

    def __init__(
        self,
        environment: str,
        *,
        split: str = TRAIN,
        data: Path | str | None = None,
        settings: Mapping[str, Any] | None = None,
        interface: Mapping[str, Any] | None = None,
        max_steps: int = 50,
        reward: Literal["outcome", "score"] = "outcome",
        responses: bool = False,
        admissible_actions: bool = True,
        max_length: int = 65536,
        render_mode: str | None = None,
    ) -> None:
        if reward not in REWARDS:
            raise ConfigError(f"reward: expected one of {', '.join(REWARDS)}, found {reward!r}")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode: expected ansi or None, found {render_mode!r}")
        for name, value in (("max_steps", max_steps), ("max_length", max_length)):
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
        self.render_mode = render_mode
        self.observation_space = AnyText(max_length)
        self.action_space = AnyText(max_length)
        self._dataset = open_dataset(environment, data=data, settings=settings, interface=interface)
        self._max_steps, self._max_length = max_steps, max_length
        self._splits: dict[str, Split] = {}
        self._split = self._open(split)
        self._arena = self._split.arena
        self._environment: Any = self._arena.make()
        self._reward, self._responses, self._admissible = reward, responses, admissible_actions
        self._about: dict[str, Any] = {}
        self._transcript: list[str] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode: of a random task of the split, or of the one that ``options`` name.

        Raises :class:`~empg.errors.DataError` if there is no such task or split, and
        :class:`~empg.errors.ConfigError` for another option.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        split = self._open(given.pop("split")) if "split" in given else self._split
        number = given.pop("task", None)
        if given:
            raise ConfigError(f"options: expected task and split alone, found {', '.join(map(str, given))}")
        drawn = int(self.np_random.integers(len(split.tasks))) if number is None else 0
        task = split.tasks[drawn] if number is None else split.task(int(number))
        observation = self._cut(self._environment.reset(task))
        self._about = {"environment": task.environment, "split": task.split, "task": task.id, "type": task.type}
        self._transcript = [observation]
        return observation, self._info(invalid=False, stop_reason="")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action.

        Raises :class:`~empg.errors.EnvironmentStateError` before the first reset and once the episode has ended.
        """
        played = self._arena.parse_action(action) if self._responses else action
        result = self._environment.step(played)
        limit = self._environment.limit if result.done else None
        ended = "success" if result.reward == 1.0 else "failure"
        info = self._info(result.invalid, (limit or ended) if result.done else "")
        final = float(self._environment.score) if self._reward == "score" else float(result.reward)
        observation = self._cut(result.observation)
        self._transcript += [f"> {action}", observation]
        return observation, final if result.done else 0.0, result.done and not limit, bool(limit), info

    def render(self) -> str | None:
        """The episode so far, if the render mode is ``ansi``."""
        return "\n".join(self._transcript) if self.render_mode == "ansi" else None

    def _open(self, name: str) -> Split:
        if name not in self._splits:
            split = Split(self._dataset, name, self._max_steps)
            split.tasks  # noqa: B018 - an unknown split is refused here
            self._splits[name] = split
        return self._splits[name]

    def _cut(self, text: str) -> str:
        if len(text) <= self._max_length:
            return text
        return (text[: max(self._max_length - len(_CUT), 0)] + _CUT)[: self._max_length]

    def _info(self, invalid: bool, stop_reason: str) -> dict[str, Any]:
        info = {
            **self._about,
            "score": float(self._environment.score),
            "metrics": dict(self._environment.metrics),
            "invalid": invalid,
            "stop_reason": stop_reason,
        }
        if self._admissible and hasattr(self._environment, "admissible_actions"):
            info["admissible_actions"] = list(self._environment.admissible_actions)
        return info


def register() -> None:
    """Register every environment with gymnasium that is not registered yet."""
    for name in ENVIRONMENTS:
        identifier = f"empg/{NAMES.get(name, name)}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, entry_point=f"{__name__}:TextEnv", kwargs={"environment": name})


register()
