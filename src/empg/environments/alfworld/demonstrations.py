"""The expert's episodes, which the warm start learns from."""

from __future__ import annotations

import re
from random import Random

from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.expert import Expert
from empg.environments.base import CLEAN, DemonstrationStep, Rates, Task
from empg.environments.draws import between, pick

_NAME = re.compile(r"\b[a-z]+ \d+")


def demonstrate(
    environment: AlfworldEnvironment,
    task: Task,
    rng: Random,
    rates: Rates = CLEAN,
) -> list[DemonstrationStep]:
    """Let an expert play a task until the episode ends; ``environment.won`` then says whether it solved it.

    With probability ``rates.mistake`` a step is a mistake of the kind that a weak agent makes: the expert's own thought
    and action with one name confused. Some mistakes are refused and some lead astray; the expert reads on and recovers.
    With probability ``rates.detour`` a step is a detour to be imitated: it goes to a random receptacle with the thought
    of a search.

    With probability ``rates.gap`` the expert is hasty: it does not clean, heat or cool the object and believes that it
    is done when it has put the object into the target.
    """
    expert = Expert(hasty=rates.has_gap(rng))
    steps: list[DemonstrationStep] = []
    observation = environment.reset(task)
    names = _NAME.findall(observation)
    here, done = "", False
    while not done:
        thought, action = expert.act(observation)
        draw = rng.random()
        is_mistake = draw < rates.mistake
        if is_mistake:
            thought, action = _confuse(rng, thought, action, names + _NAME.findall(observation))
        elif draw < rates.mistake + rates.detour:
            place = pick(rng, [name for name in names if name != here])
            need, _, _ = thought.rpartition(". ")
            thought, action = f"{need}. Check {place}.".removeprefix(". "), f"go to {place}"
        expert.played(action)
        steps.append(DemonstrationStep(observation, thought, action, is_mistake))
        result = environment.step(action)
        if action.startswith("go to ") and not result.invalid:
            here = action.removeprefix("go to ")
        observation = result.observation
        done = result.done or expert.believes_done(observation)
    return steps


def _confuse(rng: Random, thought: str, action: str, names: list[str]) -> tuple[str, str]:
    """Replace one of the action's names, in the thought too: by one read lately or one with another number."""
    right = pick(rng, _NAME.findall(action))
    kind, number = right.split()
    wrong = pick(rng, names) if rng.random() < 0.5 else f"{kind} {between(rng, 1, 3)}"
    if wrong == right:
        wrong = f"{kind} {int(number) + 1}"
    return thought.replace(right, wrong), action.replace(right, wrong)
