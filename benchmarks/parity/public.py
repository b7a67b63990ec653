"""Plays games in the public engine (alfworld 0.4.2) and records its answers. Runs in the parity environment.

    python public.py JOBS.json TRANSCRIPTS.jsonl

JOBS.json is a list of ``{"path", "seed", "steps", "solution"}``. Each gives one line: the game's path, CPU seconds, and
the events of two episodes or more: the solution (where null, the public planner's), then ``steps`` random actions, with
a reset wherever the game was won. An event is ``[action, observation, admissible actions, won, reward, done]``; an
action that is null is a reset.
"""

import contextlib
import io
import json
import random
import sys
import time
from itertools import pairwise
from pathlib import Path

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredTWEnv

NEVER = 1_000_000  # the step limit is the caller's matter
MALFORMED = (
    "",
    " ",
    "  look  ",
    "\tlook\n",
    "Look",
    "LOOK",
    "look around",
    "lookk",
    "go",
    "go to",
    "go to ",
    "take",
    "take from",
    "use",
    "help me",
    "inventory ",
    "inventory 1",
    "examine",
    "examine ",
    "open",
    "nothing",
    "think: where is it?",
    "🙂",
    "look\x00",
    "{r}",
    "#look#",
    "%s %d",
    "go to nowhere 1",
    "take mug from shelf",
    "move  to ",
    "slice",
    "look; look",
    "a" * 5000,
    "take " * 500,
    "\udcff",
)


def make_env(folder):
    """The environment that alfworld's own scripts make, for the one game in ``folder``."""
    config = {
        "env": {
            "goal_desc_human_anns_prob": 0,
            "task_types": [1, 2, 3, 4, 5, 6],
            "domain_randomization": False,
            "expert_type": "handcoded",
        },
        "dataset": {"eval_ood_data_path": str(folder), "num_eval_games": -1},
        "general": {"training_method": "dqn"},
        "rl": {"training": {"max_nb_steps_per_episode": NEVER}},
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        env = AlfredTWEnv(config, train_eval="eval_out_of_distribution")
        assert env.num_games == 1, f"{folder}: expected one game that the public engine accepts, found {env.num_games}"
        return env.init_env(batch_size=1)


def corrupted(rng, command):
    """A command with something wrong in its writing."""
    words = command.split(" ")
    place = rng.randrange(len(words))
    return rng.choice(
        (
            command.upper(),
            command.title(),
            command.replace(" ", "  "),
            command + ".",
            command[:-1],
            f" {command} ",
            f"{command}\n",
            command.replace("move", "put").replace(" to ", " in/on "),
            " ".join(words[:place] + words[place + 1 :]),
            command + " " + command,
        )
    )


def choose(rng, admissible, seen, names):
    """A random action: six in ten admissible (rather here than elsewhere), the rest impossible now or malformed."""
    draw = rng.random()
    if draw < 0.6:
        here = [command for command in admissible if not command.startswith("go to")]
        return rng.choice(here if rng.random() < 0.6 else admissible)
    if draw < 0.75:
        return rng.choice(seen)
    if draw < 0.85:
        template = rng.choice(
            (
                "take {} from {}",
                "move {} to {}",
                "put {} in/on {}",
                "heat {} with {}",
                "cool {} with {}",
                "clean {} with {}",
                "slice {} with {}",
                "open {}",
                "close {}",
                "use {}",
                "examine {}",
                "go to {}",
                "{}",
                "take {}",
            )
        )
        return template.format(*(rng.choice(names) for _ in range(template.count("{}"))))
    return corrupted(rng, rng.choice(seen)) if draw < 0.95 else rng.choice(MALFORMED)


def plan(path):
    """The solution that the public engine's own planner finds."""
    env = textworld.start(path, textworld.EnvInfos(policy_commands=True), wrappers=[AlfredDemangler()])
    return env.reset()["policy_commands"]


class Recorder:
    """Plays one game and keeps its events and the CPU seconds that the engine took."""

    def __init__(self, folder):
        self.env = make_env(folder)
        self.events, self.seen, self.names = [], [], ["nothing 1"]
        self.reset_seconds, self.step_seconds = [], 0.0

    def note(self, action, observation, infos, reward, done):
        """Keep an event, and the commands and names that it shows."""
        self.admissible = infos["admissible_commands"][0]
        for command in self.admissible:
            if command not in self.seen:
                self.seen.append(command)
                words = command.split(" ")
                self.names += [" ".join(pair) for pair in pairwise(words) if pair[1].isdigit()]
        self.events.append([action, observation, self.admissible, infos["won"][0], float(reward), bool(done)])

    def reset(self):
        """Start the game over and note the first answer."""
        start = time.process_time()
        observations, infos = self.env.reset()
        self.reset_seconds.append(time.process_time() - start)
        self.note(None, observations[0], infos, 0.0, False)

    def step(self, action):
        """Play an action, note the answer and return whether the game is over."""
        start = time.process_time()
        observations, scores, dones, infos = self.env.step([action])
        self.step_seconds += time.process_time() - start
        self.note(action, observations[0], infos, scores[0], dones[0])
        return dones[0]


def play(job):
    """One line of the output: the transcript of a game."""
    recorder, rng = Recorder(Path(job["path"]).parent), random.Random(job["seed"])
    recorder.reset()
    for action in plan(job["path"]) if job["solution"] is None else job["solution"]:
        if recorder.step(action):
            break
    recorder.reset()
    for remaining in range(job["steps"], 0, -1):
        if recorder.step(choose(rng, recorder.admissible, recorder.seen, recorder.names)) and remaining > 1:
            recorder.reset()
    return {
        "path": job["path"],
        "load_and_reset_seconds": recorder.reset_seconds,
        "step_seconds": recorder.step_seconds,
        "events": recorder.events,
    }


def main():
    """Play every job and write a line for each."""
    jobs = json.loads(Path(sys.argv[1]).read_text())
    with open(sys.argv[2], "w", buffering=1) as out:
        for job in jobs:
            out.write(json.dumps(play(job)) + "\n")


if __name__ == "__main__":
    main()
