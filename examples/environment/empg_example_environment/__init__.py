"""A text game in one file: find the key behind one of a row of doors.

After `pip install ./examples/environment` a data set may say `type: doors`. Every stage then works with it: warm start,
rollouts, training, evaluation, report, audit and MLflow.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

from empg.config import DataSet, EnvironmentRegistration, Interface
from empg.environments.base import CLEAN, Arena, Dataset, DemonstrationStep, Rates, StepResult, Task
from empg.errors import EnvironmentStateError
from empg.files import write_text
from empg.seeding import derive_seed

SPLITS = {"train": 200, "few": 50, "many": 50}  # tasks of each


class DoorsData(DataSet):
    """Settings of a data set: how many doors there are at most, and the seed of the rows."""

    most: int = 9
    seed: int = 0


class DoorsInterface(Interface):
    """What an agent sees: with ``hints``, a wrong door tells on which side the key lies."""

    hints: bool = True


class DoorsEnvironment:
    """One row at a time: `open 4` opens a door. The reward is 1 when the key is found, which ends the episode."""

    def __init__(self, dataset: DoorsDataset, max_steps: int) -> None:
        self.dataset, self.max_steps = dataset, max_steps
        self.doors = self.key = self.steps = 0
        self.score, self.done = 0.0, True

    @property
    def metrics(self) -> dict[str, float]:
        return {"doors_opened": float(self.steps)}

    @property
    def limit(self) -> str | None:
        return "step_limit" if self.done and not self.score else None

    def reset(self, task: Task) -> str:
        self.doors, self.key = self.dataset.row(task)
        self.score, self.steps, self.done = 0.0, 0, False
        return f"There are doors 1 to {self.doors}. Find the key."

    def step(self, action: str | None) -> StepResult:
        if self.done:
            raise EnvironmentStateError("doors: expected reset() before step(), found no episode in progress")
        self.steps += 1
        number = re.fullmatch(r"open (\d{1,3})", action or "")
        opened = int(number[1]) if number else 0
        valid = 1 <= opened <= self.doors
        self.score = float(opened == self.key)
        self.done = bool(self.score) or self.steps >= self.max_steps
        side = f" The key is {'left' if self.key < opened else 'right'}." if self.dataset.interface.hints else ""
        answer = "The key!" if self.score else f"Door {opened} is empty.{side}" if valid else "There is no such door."
        return StepResult(answer, self.score, self.done, invalid=not valid)


class DoorsDataset(Dataset):
    """Rows of doors; a task's number gives its row."""

    def __init__(self, data: DoorsData, directory: Path, interface: DoorsInterface) -> None:
        self.data, self.directory, self.interface = data, directory, interface

    def write(self, out: Path) -> None:
        for split, count in SPLITS.items():
            lines = [json.dumps({"id": i, "row": self.row(Task("doors", split, i, split))}) for i in range(count)]
            write_text(out / split / "tasks.jsonl", "".join(f"{line}\n" for line in lines))

    def tasks(self, split: str) -> list[Task]:
        lines = (self.directory / split / "tasks.jsonl").read_text().splitlines()
        return [Task("doors", split, json.loads(line)["id"], split) for line in lines]

    def row(self, task: Task) -> tuple[int, int]:
        """How many doors a task has, and which one hides the key."""
        random = Random(derive_seed(self.data.seed, task.split, task.id))
        doors = 3 if task.split == "few" else 3 + int(random.random() * (self.data.most - 2))
        return doors, 1 + int(random.random() * doors)

    def arena(self, max_steps: int) -> Arena:
        return Arena(lambda: DoorsEnvironment(self, max_steps))

    def demonstrate(
        self, number: int, random: Random, *, max_steps: int, rates: Rates = CLEAN
    ) -> list[DemonstrationStep]:
        """The expert halves the remaining doors. A mistake opens a door that does not exist, a detour opens door 1."""
        environment, steps = DoorsEnvironment(self, max_steps), []
        observation = environment.reset(self.training_task(number))
        left, right = 1, environment.doors
        while not environment.done:
            middle, luck = (left + right) // 2, random.random()
            mistake, detour = luck < rates.mistake, luck >= 1 - rates.detour
            door = 99 if mistake else 1 if detour else middle
            steps.append(DemonstrationStep(observation, f"{left} to {right}.", f"open {door}", mistake))
            observation = environment.step(f"open {door}").observation
            if door == middle and self.interface.hints:
                left, right = (left, middle - 1) if environment.key < middle else (middle + 1, right)
        return steps


ENVIRONMENT = EnvironmentRegistration(
    data=DoorsData,
    dataset="empg_example_environment:DoorsDataset",
    panels=("few", "many"),
    interface=DoorsInterface,
    metrics={"doors_opened": "Doors opened in the episode."},
)
