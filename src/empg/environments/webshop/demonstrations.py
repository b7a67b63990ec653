"""The expert's episodes, which the warm start learns from."""

from __future__ import annotations

import re
from random import Random

from empg.environments.base import CLEAN, DemonstrationStep, Rates, Task
from empg.environments.draws import pick
from empg.environments.webshop.engine.buttons import BACK_TO_SEARCH, DESCRIPTION, FEATURES, NEXT_PAGE, PREVIOUS, REVIEWS
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.expert import NOT_OPENED, Choice, Expert, page_of
from empg.environments.webshop.generated.words import BY_NAME, CATEGORIES, VALUES

_ID = re.compile(r"\bB0\w{8}\b")
_ARGUMENT = re.compile(r"\[(.*)\]")
_BUTTONS = (BACK_TO_SEARCH, DESCRIPTION, FEATURES, NEXT_PAGE, PREVIOUS, REVIEWS)


def demonstrate(
    environment: WebShopEnvironment,
    task: Task,
    rng: Random,
    rates: Rates = CLEAN,
) -> list[DemonstrationStep]:
    """Let an expert play a task until the episode ends; ``environment.score`` then says whether it solved it.

    With probability ``rates.mistake`` a step is a mistake of the kind that a weak agent makes: the expert's own thought
    and action with one product, option value, search word or button confused. Some mistakes are refused and some lead
    astray; the expert reads on and recovers. No mistake buys. With probability ``rates.detour`` a step is a detour to
    be imitated: another search, or a look at another product or another part of a product's page.

    With probability ``rates.gap`` the expert is hasty: it buys without choosing options.
    """
    expert = Expert(hasty=rates.has_gap(rng))
    steps: list[DemonstrationStep] = []
    observation = environment.reset(task)
    ids: list[str] = []
    done = False
    while not done:
        choices = expert.choices(observation)
        thought, action = choices[0]
        if page_of(observation) == "results":
            ids = (_ID.findall(observation) + ids)[:20]
        draw = rng.random()
        is_mistake = draw < rates.mistake
        if is_mistake:
            thought, action = _confuse(rng, (thought, action), ids, task.type)
        elif draw < rates.mistake + rates.detour:
            thought, action = _detour(rng, observation, choices)
        expert.played(action)
        steps.append(DemonstrationStep(observation, thought, action, is_mistake))
        result = environment.step(action)
        observation, done = result.observation, result.done
    return steps


def _detour(rng: Random, observation: str, choices: list[Choice]) -> Choice:
    """A step that takes time and does no harm: the expert judges what was opened when it sees it."""
    page, closed = page_of(observation), NOT_OPENED.findall(observation)
    if page == "item":
        part = pick(rng, (DESCRIPTION, FEATURES, REVIEWS))
        return f"Look at the {part.lower()}.", f"click[{part}]"
    if page == "results" and closed:
        return "Look at another one.", f"click[{pick(rng, closed)[0]}]"
    return pick(rng, choices[1:] or choices)


def _confuse(rng: Random, choice: Choice, ids: list[str], category: str) -> Choice:
    """Replace what the action names, in the thought too: by a product read lately, another value, word or button."""
    thought, action = choice
    argument = _ARGUMENT.findall(action)[0]
    if action.startswith("search["):
        right = pick(rng, argument.split())
        wrong = _another(rng, _title_words(category), right)
    elif _ID.fullmatch(argument):
        right = argument
        # An agent that loses its place joins the letters of one id to the number of another.
        wrong = _another(rng, ids, right) if rng.random() < 0.7 else right[:8] + _another(rng, ids, right)[8:]
    elif values := next((values for values in VALUES.values() if argument in values), ()):
        right, wrong = argument, _another(rng, values, argument)
    else:
        right, wrong = argument, _another(rng, _BUTTONS, argument)
    return thought.replace(right, wrong), action.replace(right, wrong)


def _another(rng: Random, things: list[str] | tuple[str, ...], right: str) -> str:
    return pick(rng, [thing for thing in things if thing != right] or [right])


def _title_words(category: str) -> list[str]:
    """The words that titles in a category use, and other categories' kinds."""
    kinds = [kind.name for other in CATEGORIES for kind in other.kinds]
    return [*BY_NAME[category].title_attributes, *kinds]
