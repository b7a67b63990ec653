"""The expert's episodes, which the warm start learns from."""

from __future__ import annotations

import re
from random import Random

from empg.environments.base import CLEAN, DemonstrationStep, Rates, Task
from empg.environments.deepsearch.environment import DeepSearchEnvironment
from empg.environments.deepsearch.expert import Expert, read_documents
from empg.environments.deepsearch.generated.names import FIRST, NEXT
from empg.environments.deepsearch.text import format_action, split_action
from empg.environments.draws import pick

_NEED = re.compile(r"the (?P<noun>(?:(?! of )[a-z ])+) of (?=[A-Z])")


def demonstrate(
    environment: DeepSearchEnvironment,
    task: Task,
    rng: Random,
    rates: Rates = CLEAN,
) -> list[DemonstrationStep]:
    """Let an expert answer a task's question; ``environment.metrics["em"]`` then says whether it was right.

    With probability ``rates.mistake`` a step that looks for a page is a mistake of the kind that a weak agent makes: a
    name read lately, or the right name with a wrong syllable, replaces the right one in thought and action. Answers are
    never changed, since they end the episode. With probability ``rates.detour`` a step is a detour to be imitated: the
    expert looks up another name that it read, a first search also says what is needed of the page ("Kelmir Works
    founder"), or an answer is looked up before it is given. A detour takes time and does no harm.

    With probability ``rates.gap`` the expert is hasty: it answers a chain with the first thing that it finds.
    """
    expert = Expert(hasty=rates.has_gap(rng))
    steps: list[DemonstrationStep] = []
    observation, done = environment.reset(task), False
    while not done:
        thought, action = expert.act(observation)
        name, content = split_action(action) or ("", "")
        draw = rng.random()
        is_mistake = draw < rates.mistake and name != "answer"
        if is_mistake:
            wrong = _another(rng, content, observation)
            thought, action = thought.replace(content, wrong), format_action(name, wrong)
        elif rates.mistake <= draw < rates.mistake + rates.detour:
            thought, action = _detour(rng, thought, action, observation, {step.action for step in steps})
        expert.played(action)
        steps.append(DemonstrationStep(observation, thought, action, is_mistake))
        result = environment.step(action)
        observation, done = result.observation, result.done
    return steps


def _another(rng: Random, name: str, observation: str) -> str:
    """A name that the observation shows in place of the right one, or the right one with a syllable confused."""
    names = _shown(observation, name)
    if names and rng.random() < 0.7:
        return pick(rng, names)
    words = name.split()
    made = [i for i, word in enumerate(words) if word[:3] in FIRST and word[-3:] in NEXT]
    i = pick(rng, made)
    words[i] = words[i][:-3] + pick(rng, [syllable for syllable in NEXT if syllable != words[i][-3:]])
    return " ".join(words)


def _shown(observation: str, but: str) -> list[str]:
    """The names that an observation shows, other than one."""
    shown = [name for title, facts in read_documents(observation) for name in (title, *facts.values())]
    return [name for name in dict.fromkeys(shown) if name not in but and not name[0].isdigit()]


def _detour(rng: Random, thought: str, action: str, observation: str, played: set[str]) -> tuple[str, str]:
    """The detour in place of the expert's step; the expert's own step where nothing else is new."""
    name, content = split_action(action) or ("", "")
    look = format_action("search", content)
    if name == "answer" and not content[0].isdigit() and look not in played:
        return thought.replace(f"Answer {content}.", f"Check it. Search {content}."), look
    others = [other for other in _shown(observation, content) if format_action("search", other) not in played]
    if name != "answer" and others:
        other = pick(rng, others)
        return f"Look at {other}.", format_action("search", other)
    need = _NEED.search(thought)
    if name == "search" and need and not content.endswith(need["noun"]):
        query = f"{content} {need['noun']}"
        return thought.replace(f"Search {content}.", f"Search {query}."), format_action(name, query)
    return thought, action
