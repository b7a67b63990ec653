"""The sampler equals sampling without a cache, and the scorer agrees with it, on real games."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import ClassVar

import numpy as np
import pytest
import torch

from empg.config import TinyPolicy
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena, StepResult, Task, step_each
from empg.environments.text import parse_action
from empg.policy import decoding
from empg.policy.packing import packs
from empg.rollouts import sampler as sampling
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Episode, StopReason, Trajectory
from empg.rollouts.sampler import Sampler
from empg.training.update import conversations

GAMES = GeneratedGames("small", 0)
MAX_RESPONSE = 12
LIMITS = (2, 6, 3, 9, 5)  # the games' limits of steps, in turn: rows end at different times
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


class Guided(AlfworldEnvironment):
    """A game that reads any text as an admissible action, so that random words lead somewhere."""

    def step(self, action: str | None) -> StepResult:
        actions = self.admissible_actions
        return super().step(actions[(len(action or "") + 7 * self._steps) % len(actions)])


def environments():
    """Makes environments with each of the step limits in turn."""
    limits = cycle(LIMITS)
    return lambda: Guided(GAMES, next(limits))


def episodes(groups: int = 3, group_size: int = 4) -> list[Episode]:
    return group_episodes(GAMES.tasks("train", range(groups)), group_size, 0, 5, "test")


def make_sampler(policy, **options) -> Sampler:
    return Sampler(
        policy.network,
        policy.chat,
        Arena(environments()),
        **{"max_response": MAX_RESPONSE, "max_context": 512} | options,
    )


@torch.no_grad()
def reference_play(policy, environment, episode, *, temperature=1.0, greedy=False):
    """An episode, each token from a forward pass over the whole conversation: its steps' (ids, logprobs, entropies)."""
    network, chat = policy.network, policy.chat
    random = np.random.Generator(np.random.Philox(key=episode.seed))
    ids, steps, done = chat.opening(environment.reset(episode.task)), [], False
    while not done:
        uniforms = 1 - random.random(MAX_RESPONSE)
        response, logprobs, entropies = [], [], []
        while len(response) < MAX_RESPONSE and chat.end_of_turn not in response:
            hidden = network.states(torch.tensor(ids + response))[-1]
            logprob = ((network.output_weight @ hidden).double() / temperature).log_softmax(0)
            p = logprob.exp()
            below = (p.cumsum(0) < uniforms[len(response)]).sum()
            token = int(p.argmax() if greedy else below)
            response.append(token)
            logprobs.append(float(logprob[token]))
            entropies.append(float(-(p * logprob).sum()))
        steps.append((response, logprobs, entropies))
        cut = response[-1] != chat.end_of_turn
        result = environment.step("" if cut else parse_action(chat.text(response)) or "")
        ids += response + [chat.end_of_turn] * cut + chat.reply(result.observation)
        done = result.done
    return steps


def responses(trajectory: Trajectory) -> list[list[int]]:
    return [step.response_ids.tolist() for step in trajectory.steps]


def assert_plays_like_the_reference(policy, trajectories: list[Trajectory], **options) -> None:
    make = environments()
    for trajectory in trajectories:
        steps = reference_play(policy, make(), trajectory.episode, **options)
        assert responses(trajectory) == [ids for ids, _, _ in steps]
        for step, (_, logprobs, entropies) in zip(trajectory.steps, steps, strict=True):
            np.testing.assert_allclose(step.logprobs, logprobs, **TOLERANCE)
            np.testing.assert_allclose(step.entropies, entropies, **TOLERANCE)


@pytest.fixture(params=["qwen2", "llama"])
def policy(request, make_policy):
    return make_policy(request.param)


@pytest.mark.parametrize("options", [{}, {"greedy": True}, {"temperature": 0.6}], ids=["sampled", "greedy", "cold"])
def test_plays_like_reencoding_everything_for_each_token(policy, options, monkeypatch):
    monkeypatch.setattr(sampling, "CACHE_BLOCK", 4)  # so that the cache grows often
    monkeypatch.setattr(sampling, "PREFILL_TOKENS", 64)  # so that prefills come in parts
    trajectories = make_sampler(policy, **options).play(episodes())
    assert_plays_like_the_reference(policy, trajectories, **options)
    ends = Counter(step.truncated for t in trajectories for step in t.steps)
    assert options.get("greedy") or ends[True] > 5 < ends[False], "the policy should end some turns and not others"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_scorer_agrees_on_whole_trajectories(policy, temperature):
    trajectories = make_sampler(policy, temperature=temperature).play(episodes())
    (pack,) = packs(conversations(trajectories, apart=False), 10**6, torch.device("cpu"))
    with torch.no_grad():
        logprobs, entropies = pack.statistics(policy.network, temperature)
    steps = [step for t in trajectories for step in t.steps]
    np.testing.assert_allclose(np.concatenate([s.logprobs for s in steps]), logprobs, **TOLERANCE)
    np.testing.assert_allclose(np.concatenate([s.entropies for s in steps]), entropies, **TOLERANCE)
    assert np.ptp(entropies.numpy()) > 1  # nats: the agreement is not about a constant


def test_an_episode_does_not_depend_on_its_neighbours(make_policy):
    policy = make_policy("qwen2")
    together = make_sampler(policy).play(episodes())
    for number, episode in enumerate(episodes()):
        limits = environments()
        for _ in range(number):
            limits()
        sampler = Sampler(policy.network, policy.chat, Arena(limits), max_response=MAX_RESPONSE, max_context=512)
        (alone,) = sampler.play([episode])
        assert responses(alone) == responses(together[number])
        assert (alone.reward, alone.stop_reason) == (together[number].reward, together[number].stop_reason)


def test_waves_change_nothing_but_how_many_are_in_play(make_policy, monkeypatch):
    policy = make_policy("qwen2")
    together = make_sampler(policy).play(episodes())
    opened, told = [], []
    prefill = sampling._Batch._prefill_openings

    def spy(self):
        opened.append(len(self.rows))
        prefill(self)

    monkeypatch.setattr(sampling._Batch, "_prefill_openings", spy)
    waves = make_sampler(policy, rows=5).play(episodes(), told.append)
    assert opened == [5, 5, 2]
    assert sum(told) == len(waves)
    for trajectory, whole in zip(waves, together, strict=True):
        assert trajectory.episode == whole.episode
        assert responses(trajectory) == responses(whole)
        assert (trajectory.reward, trajectory.stop_reason) == (whole.reward, whole.stop_reason)
        for step, other in zip(trajectory.steps, whole.steps, strict=True):
            np.testing.assert_allclose(step.logprobs, other.logprobs, **TOLERANCE)
            np.testing.assert_allclose(step.entropies, other.entropies, **TOLERANCE)


def test_openings_are_shared_rows_wait_and_ended_ones_leave(make_policy, monkeypatch):
    policy = make_policy("qwen2")
    calls = []
    prefill, compact, turn = decoding.prefill, sampling._Batch._compact, sampling._Batch._turn

    def spy_prefill(network, token_ids, lengths, *args, **options):
        calls.append(list(lengths))
        return prefill(network, token_ids, lengths, *args, **options)

    waited, sizes = [], []

    def spy_turn(self):
        waited.append((len(self.waiting), len(self.rows) - len(self.dead)))
        return turn(self)

    def spy_compact(self, decoding):
        sizes.append(len(self.rows))
        return compact(self, decoding)

    monkeypatch.setattr(decoding, "prefill", spy_prefill)
    monkeypatch.setattr(sampling._Batch, "_turn", spy_turn)
    monkeypatch.setattr(sampling._Batch, "_compact", spy_compact)
    told = []
    trajectories = make_sampler(policy).play(episodes(groups=3, group_size=6), told.append)
    assert len(calls[0]) == 3, "each task's opening once"
    assert any(waiting < alive for waiting, alive in waited), "some rows prefill while others decode"
    assert any(waiting > 1 for waiting, _ in waited), "rows prefill together"
    assert len(set(sizes)) > 1, "the batch shrinks as rows end"
    tokens = sum(t.tokens for t in trajectories)
    prefilled = sum(map(sum, calls))
    assert prefilled < tokens, "observations are encoded once"
    assert sum(told) == len(trajectories)


def test_a_turns_actions_go_to_the_environments_together(make_policy):
    policy = make_policy("qwen2")
    sizes = []

    def together(environments, actions):
        sizes.append(len(actions))
        return step_each(environments, actions)

    sampler = Sampler(
        policy.network,
        policy.chat,
        Arena(environments(), step_all=together),
        max_response=MAX_RESPONSE,
        max_context=512,
    )
    trajectories = sampler.play(episodes(group_size=8))
    assert sum(sizes) == sum(len(t.steps) for t in trajectories)
    assert len(sizes) < sum(sizes) / 2, "one call for several episodes"
    apart = make_sampler(policy).play(episodes(group_size=8))
    assert [responses(t) for t in trajectories] == [responses(t) for t in apart]


def test_the_answer_limit_cuts_a_step(make_policy):
    policy = make_policy("qwen2")
    end = policy.chat.end_of_turn
    cut = 0
    for trajectory in make_sampler(policy, max_response=3).play(episodes()):
        for step, following in zip(trajectory.steps, [*trajectory.steps[1:], None], strict=True):
            assert 1 <= len(step.response_ids) <= 3
            assert step.truncated == (step.response_ids[-1] != end)
            assert end not in step.response_ids[:-1]
            if step.truncated:
                cut += 1
                assert step.action is None
                assert len(step.response_ids) == 3
            if following is not None:
                # What a cut answer lacks is put in by the template, so that the conversation stays well-formed.
                assert (following.prompt_ids[0] == end) == step.truncated
    assert cut > 5


def test_the_context_limit_ends_an_episode_before_the_step_that_might_not_fit(make_policy):
    policy = make_policy("qwen2")
    unlimited = make_sampler(policy).play(episodes())
    before = [np.cumsum([0] + [len(s.prompt_ids) + len(s.response_ids) for s in t.steps]) for t in unlimited]
    stopped = 0
    for max_context in range(60, 200, 7):
        trajectories = make_sampler(policy, max_context=max_context).play(episodes())
        for trajectory, whole, lengths in zip(trajectories, unlimited, before, strict=True):
            fits = [
                n + len(s.prompt_ids) + MAX_RESPONSE <= max_context for n, s in zip(lengths, whole.steps, strict=False)
            ]
            assert responses(trajectory) == responses(whole)[: sum(fits)]
            if all(fits):
                assert (trajectory.stop_reason, trajectory.reward) == (whole.stop_reason, whole.reward)
            else:
                assert (trajectory.stop_reason, trajectory.reward) == (StopReason.CONTEXT_LIMIT, 0.0)
                stopped += 1
    assert stopped > 50


def test_an_opening_that_does_not_fit_is_an_episode_without_steps(make_policy):
    policy = make_policy("qwen2")
    told = []
    trajectories = make_sampler(policy, max_context=MAX_RESPONSE + 5).play(episodes(), told.append)
    assert {(t.stop_reason, len(t.steps), t.reward) for t in trajectories} == {(StopReason.CONTEXT_LIMIT, 0, 0.0)}
    assert sum(told) == len(trajectories)
    lengths = {len(policy.chat.opening(AlfworldEnvironment(GAMES, 1).reset(e.task))) for e in episodes()}
    between = max(lengths) - 1 + MAX_RESPONSE  # the longest opening does not fit, the others do
    assert {bool(t.steps) for t in make_sampler(policy, max_context=between).play(episodes())} == {True, False}


def test_the_networks_own_positions_are_a_limit(make_policy, chat):
    from empg.training.warmstart import tiny_policy

    small = tiny_policy(TinyPolicy(width=16, heads=2, kv_heads=1, layers=1, mlp_width=16, max_positions=100), chat, 0)
    trajectories = make_sampler(small, max_context=10_000).play(episodes())
    assert StopReason.CONTEXT_LIMIT in {t.stop_reason for t in trajectories}
    assert max(t.tokens for t in trajectories) <= 100


class Scripted:
    """Ends with the given reward after the given number of steps."""

    max_steps = 3

    def __init__(self, reward: float, steps: int) -> None:
        self.reward, self.steps, self.left = reward, steps, steps

    def reset(self, task: Task) -> str:
        return "Say something."

    score = 0.25
    metrics: ClassVar = {"talks": 1.0}

    @property
    def limit(self) -> str | None:
        return "step_limit" if self.left == 0 and self.steps == self.max_steps else None

    def step(self, action: str | None) -> StepResult:
        self.left -= 1
        return StepResult("Again.", self.reward if self.left == 0 else 0.0, self.left == 0, invalid=self.left == 1)


def test_stop_reasons_and_rewards_are_the_environments(make_policy):
    policy = make_policy("qwen2")
    ends = [(1.0, 2), (0.0, 2), (0.0, 3), (1.0, 3)]
    script = iter(ends)
    sampler = Sampler(
        policy.network, policy.chat, Arena(lambda: Scripted(*next(script))), max_response=4, max_context=512
    )
    trajectories = sampler.play([Episode(Task("made", "up", 0, "talk"), 0, i, i) for i in range(4)])
    assert [t.stop_reason for t in trajectories] == [
        StopReason.SUCCESS,
        StopReason.FAILURE,
        StopReason.STEP_LIMIT,
        StopReason.SUCCESS,
    ]
    assert [(t.reward, len(t.steps)) for t in trajectories] == ends
    assert [(t.score, t.metrics) for t in trajectories] == [(0.25, {"talks": 1.0})] * 4
    assert [[s.invalid for s in t.steps] for t in trajectories[1:3]] == [[True, False], [False, True, False]]
    assert [s.observation for s in trajectories[2].steps] == ["Say something.", "Again.", "Again."]


class Refusing:
    """Refuses the steps marked "x" of a script, and ends after it."""

    def __init__(self, script: str) -> None:
        self.script, self.max_steps = iter(script), len(script)
        self.left = len(script)

    def reset(self, task: Task) -> str:
        return "Say something."

    score, limit = 0.0, "step_limit"
    metrics: ClassVar = {}

    def step(self, action: str | None) -> StepResult:
        self.left -= 1
        return StepResult("Again.", 0.0, self.left == 0, invalid=next(self.script) == "x")


@pytest.mark.parametrize(
    ("script", "max_refused", "steps", "reason"),
    [
        ("xxxxx", 0, 5, StopReason.STEP_LIMIT),
        ("xxxxx", 2, 2, StopReason.REFUSED),
        ("x.x.x.", 2, 6, StopReason.STEP_LIMIT),  # not in a row
        (".x.xxx.", 2, 5, StopReason.REFUSED),
        ("..x", 1, 3, StopReason.STEP_LIMIT),  # the environment's own end comes first
        (".x.", 1, 2, StopReason.REFUSED),
    ],
)
def test_invalid_actions_in_a_row_end_an_episode(make_policy, script, max_refused, steps, reason):
    policy = make_policy("qwen2")
    sampler = Sampler(
        policy.network,
        policy.chat,
        Arena(lambda: Refusing(script)),
        max_response=4,
        max_context=512,
        max_refused=max_refused,
    )
    (trajectory,) = sampler.play([Episode(Task("made", "up", 0, "talk"), 0, 0, 0)])
    assert (len(trajectory.steps), trajectory.stop_reason, trajectory.reward) == (steps, reason, 0.0)


def test_a_sampled_token_follows_its_probability(make_policy):
    """Inverse transform sampling over a fine grid of uniform numbers reproduces the distribution."""
    policy = make_policy("qwen2")
    sampler = make_sampler(policy, temperature=0.8)
    hidden = torch.randn(1, policy.network.architecture.width, generator=torch.Generator().manual_seed(0))
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    tokens, logprobs, entropies = sampler.draw(hidden.expand(20_000, -1), uniforms)
    expected = ((hidden @ policy.network.output_weight.T)[0] / 0.8).double().softmax(-1)
    found = torch.bincount(tokens, minlength=len(expected)) / 20_000
    assert (found - expected).abs().max() < 2e-4
    torch.testing.assert_close(logprobs.double(), expected.log()[tokens], **TOLERANCE)
    torch.testing.assert_close(entropies[0].double(), -(expected * expected.log()).sum(), **TOLERANCE)
