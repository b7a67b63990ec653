"""The prompts of the paper's protocol, word by word, and where they are refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from empg.config.reading import load_study
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.base import StepResult, Task
from empg.environments.datasets import open_dataset
from empg.environments.prompts import ALFWORLD, WEBSHOP, PromptedEnvironment
from empg.environments.webshop.registration import WebshopData
from empg.errors import ConfigError

TASK = Task("scripted", "train", 0, "")
END = (
    "This reasoning process MUST be enclosed within <think> </think> tags. Once you've finished your reasoning, you "
    "should choose an admissible action for current step and present it within <action> </action> tags."
)
ALFWORLD_END = (
    "Your admissible actions of the current situation are: ['look'\n 'go to bed 1'].\n\nNow it's your turn to take an "
    "action. You should first reason step-by-step about the current situation. " + END
)
WEBSHOP_END = (
    "Your admissible actions of the current situation are:\n[\n'look',\n'help',\n'go to bed 1'\n].\n\nNow it's your "
    "turn to take one action for the current step. You should first reason step-by-step about the current situation, "
    "then think carefully which admissible action best advances the shopping goal. " + END
)


class Scripted:
    """Answers each action with the next text, and ends with the last."""

    max_steps = 9
    score = 0.5
    limit = None
    metrics: Mapping[str, float] = {"known": 1.0}
    admissible_actions = ("look", "help", "go to bed 1")

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def reset(self, task: Task) -> str:
        return self.texts.pop(0)

    def step(self, action: str | None) -> StepResult:
        return StepResult(self.texts.pop(0), 0.0, not self.texts, action is None)


def test_alfworld():
    environment = PromptedEnvironment(
        Scripted("A room.\n\nYour task is to: put a mug on the bed.", "You see {braces}.", "b", "c", "over"),
        ALFWORLD,
        2,
    )
    assert environment.reset(TASK) == (
        "You are an expert agent operating in the ALFRED Embodied Environment.\n"
        "Your current observation is: A room.\n\nYour task is to: put a mug on the bed.\n" + ALFWORLD_END
    )
    environment.step("look")
    environment.step("go to bed 1")
    result = environment.step(None)
    assert result == StepResult(
        "You are an expert agent operating in the ALFRED Embodied Environment. Your task is to: put a mug on the bed.\n"
        "Prior to this step, you have already taken 3 step(s). Below are the most recent 2 observations and the "
        "corresponding actions you took: [Observation 2: 'You see {braces}.', Action 2: 'go to bed 1']\n"
        "[Observation 3: 'b', Action 3: '']\n"
        "You are now at step 4 and your current observation is: c\n" + ALFWORLD_END,
        0.0,
        False,
        True,
    )
    assert environment.step("look").observation == "over"
    assert (environment.score, environment.limit, environment.metrics) == (0.5, None, {"known": 1.0})


@pytest.mark.parametrize(
    "opening", ["Instruction: [SEP] a red mug [SEP] Search", "WebShop [SEP] Instruction: [SEP] a red mug [SEP] Search"]
)
def test_webshop(opening):
    page = "Instruction: [SEP] a red mug [SEP] Back to Search [SEP] Page 1"
    environment = PromptedEnvironment(Scripted(opening, page, "over"), WEBSHOP, 2)
    start = "You are an expert autonomous agent operating in the WebShop e-commerce environment.\n"
    start += "Your task is to: a red mug.\n"
    assert environment.reset(TASK) == f"{start}Your current observation is: 'Search'.\n{WEBSHOP_END}"
    assert environment.step("search[red mug]").observation == (
        f"{start}Prior to this step, you have already taken 1 step(s). Below are the most recent 1 observations and "
        "the corresponding actions you took: [Observation 1: ''Search'', Action 1: 'search[red mug]']\n"
        f"You are now at step 2 and your current observation is: 'Back to Search' [SEP] 'Page 1'.\n{WEBSHOP_END}"
    )


def test_the_task_of_webshop_is_the_same_in_both_modes(tmp_path):
    """Only the instruction, also where buttons follow on lines of their own."""
    found = []
    for mode in ("text", "text_rich"):
        dataset = open_dataset(WebshopData(), tmp_path, {"history": 2, "observation": mode}).without_files()
        prompt = dataset.arena(6).make().reset(dataset.tasks("valid")[0])
        found.append(prompt.partition("Your task is to: ")[2].partition("Your current observation")[0])
    assert found[0] == found[1]
    assert found[0].endswith("dollars.\n")


@pytest.mark.parametrize(("data", "split"), [(AlfworldData(), "valid_seen"), (WebshopData(), "valid")])
def test_every_listed_action_is_one_that_the_environment_takes(data, split, tmp_path):
    interface = {"history": 2} | ({"observation": "text"} if data.type == "webshop" else {})
    dataset = open_dataset(data, tmp_path, interface).without_files()
    arena, task = dataset.arena(6), dataset.tasks(split)[0]
    assert arena.apart
    prompted = arena.make()
    prompt = prompted.reset(task)
    for number in range(4):
        actions = prompted.environment.admissible_actions
        assert [action for action in actions if action != "help" and f"'{action}'" not in prompt] == []
        result = prompted.step(actions[number % len(actions)].replace("<your query>", "red mug"))
        assert not result.invalid
        if result.done:
            break
        prompt = result.observation


def test_demonstrations_of_another_form_are_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "{seeds: [1], methods: {grpo: {advantage: grpo}}, environments: {alfworld: {interface: {history: 2}}}}"
    )
    with pytest.raises(ConfigError, match=r"warmstart\.tokens: expected 0 with interface\.history.*found 2200000"):
        load_study(path, {"alfworld": AlfworldData()}, {})
