"""Episodes that a server samples equal the policy's own; a server that fails, stalls or lies is found out.

The server is a fake in a thread that speaks vLLM's protocol over real sockets. tests/vllm plays with a real one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch

from empg.config import Sampling
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena, StepResult, Task
from empg.errors import DivergenceError
from empg.policy.packing import packs
from empg.rollouts import vllm_client, vllm_server
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.sampler import Sampler
from empg.rollouts.table import from_table, to_table
from empg.rollouts.vllm import VllmSampler
from empg.rollouts.vllm_client import ServerError
from empg.rollouts.vllm_server import Server
from empg.seeding import derive_seed
from empg.training.importance import importance_metrics, truncated_weights
from empg.training.update import conversations

GAMES = GeneratedGames("small", 0)
MAX_RESPONSE = 12
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


class Guided(AlfworldEnvironment):
    """A game that reads any text as an admissible action, so that random words lead somewhere."""

    def step(self, action: str | None) -> StepResult:
        actions = self.admissible_actions
        return super().step(actions[(len(action or "") + 7 * self._steps) % len(actions)])


class Once:
    """One step."""

    score, limit, metrics = 0.0, "step_limit", {}
    max_steps = 1

    def reset(self, task: Task) -> str:
        return "Say something."

    def step(self, action: str | None) -> StepResult:
        return StepResult("Again.", 0.0, True, invalid=False)


ARENA = Arena(lambda: Guided(GAMES, 2))


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(vllm_client, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(vllm_server, "REQUEST_SECONDS", 20.0)


@pytest.fixture
def policy(make_policy):
    return make_policy("qwen2")


@pytest.fixture
def fake(policy, fake_vllm):
    return fake_vllm(policy)


def episodes(groups: int = 2, group_size: int = 2) -> list[Episode]:
    return group_episodes(GAMES.tasks("train", range(groups)), group_size, 0, 5, "test")


@pytest.fixture
def make_sampler(policy, fake, tmp_path):
    """A sampler that asks the fake."""

    def make(arena: Arena = ARENA, *, greedy: bool = False, **options: object) -> VllmSampler:
        values = {"max_response": MAX_RESPONSE, "max_context": 512, "url": fake.url} | options
        server = Server(Sampling(engine="vllm", **values), tmp_path, tmp_path / "weights")
        return VllmSampler(policy, arena, server, greedy=greedy)

    return make


def native(policy, arena: Arena = ARENA, **options: object) -> Sampler:
    values = {"max_response": MAX_RESPONSE, "max_context": 512} | options
    return Sampler(policy.network, policy.chat, arena, max_refused=2, **values)


def responses(trajectories: list[Trajectory]) -> list[list[list[int]]]:
    return [[step.response_ids.tolist() for step in t.steps] for t in trajectories]


def ends(trajectories: list[Trajectory]) -> list[object]:
    return [(t.episode, t.stop_reason, t.reward, t.score, [s.truncated for s in t.steps]) for t in trajectories]


# ------------------------------------------------------------------------------------------- equal to the native engine
@pytest.mark.parametrize("arena", [ARENA, replace(ARENA, apart=True)], ids=["whole", "apart"])
def test_greedy_episodes_are_those_of_the_native_engine(policy, make_sampler, arena):
    expected = native(policy, arena, greedy=True).play(episodes())
    told = []
    found = make_sampler(arena, greedy=True).play(episodes(), told.append)
    assert responses(found) == responses(expected)
    assert ends(found) == ends(expected)
    assert sum(told) == len(found)
    for trajectory, other in zip(found, expected, strict=True):
        for step, same in zip(trajectory.steps, other.steps, strict=True):
            np.testing.assert_array_equal(step.prompt_ids, same.prompt_ids)
            np.testing.assert_allclose(step.logprobs, same.logprobs, **TOLERANCE)
            np.testing.assert_allclose(step.entropies, same.entropies, **TOLERANCE)
            assert (step.text, step.action, step.sampler_logprobs) == (same.text, same.action, None)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropies_are_the_policys_own(policy, make_sampler, temperature):
    trajectories = make_sampler(temperature=temperature).play(episodes(2, 4))
    (pack,) = packs(conversations(trajectories, apart=False), 10**6, torch.device("cpu"))
    with torch.no_grad():
        logprobs, entropies = pack.statistics(policy.network, temperature)
    steps = [step for t in trajectories for step in t.steps]
    np.testing.assert_allclose(np.concatenate([s.logprobs for s in steps]), logprobs, **TOLERANCE)
    np.testing.assert_allclose(np.concatenate([s.entropies for s in steps]), entropies, **TOLERANCE)
    np.testing.assert_allclose(np.concatenate([s.sampler_logprobs for s in steps]), logprobs, **TOLERANCE)
    assert np.ptp(entropies.numpy()) > 1  # nats: the agreement is not about a constant
    cut = [step.truncated for step in steps]
    assert set(cut) == {True, False}, "the policy should end some turns and not others"


def test_tokens_follow_the_policys_distribution(policy, make_sampler):
    """The first token of 120 episodes, beside the probabilities from which the native engine draws."""
    count, task = 120, Task("made", "up", 0, "talk")
    plays = [Episode(task, 0, i, derive_seed(1, i)) for i in range(count)]
    played = make_sampler(Arena(Once), max_response=1, rows=8).play(plays)
    found = Counter(int(t.steps[0].response_ids[0]) for t in played)
    with torch.no_grad():
        hidden = policy.network.states(torch.tensor(policy.chat.opening("Say something.")))[-1:]
        expected = policy.network.logits(hidden)[0].double().softmax(0)
    likely = (expected > 0.02).nonzero()[:, 0].tolist()
    assert len(likely) >= 3
    for token in likely:
        p = float(expected[token])
        assert abs(found[token] / count - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_the_limits_of_context_end_episodes_as_in_the_native_engine(policy, make_sampler):
    for limit in (MAX_RESPONSE + 5, 110):
        expected = native(policy, greedy=True, max_context=limit).play(episodes())
        assert ends(make_sampler(greedy=True, max_context=limit).play(episodes())) == ends(expected)
        assert "context_limit" in {t.stop_reason for t in expected}


# ------------------------------------------------------------------------------------------------------------- requests
def test_a_turns_seed_is_its_own_and_neither_order_nor_neighbours_matter(fake, make_sampler):
    together = make_sampler().play(episodes())
    seeds = Counter(body["seed"] for body in fake.completions)
    turns = [derive_seed(t.episode.seed, "turn", i) for t in together for i in range(len(t.steps))]
    assert seeds == Counter([0, *turns])  # 0: the probe's
    assert fake.most_in_flight > 1
    fake.most_in_flight = 0
    alone = make_sampler(rows=1).play(episodes()[::-1])[::-1]
    assert fake.most_in_flight == 1
    assert responses(alone) == responses(together)


def test_no_more_requests_than_rows_are_in_flight(fake, make_sampler):
    together = Event()

    def wait_for_another():
        if fake.in_flight > 1:
            together.set()
        if len(fake.completions) > 1:  # the first one is the probe, which is alone
            together.wait(10)

    fake.on_completion = wait_for_another
    make_sampler(rows=2).play(episodes())
    assert fake.most_in_flight == 2


def test_every_sampling_parameter_is_sent_and_text_never(fake, policy, make_sampler):
    make_sampler(temperature=0.7).play(episodes(1, 2))
    for body in fake.completions[1:]:
        assert all(isinstance(i, int) for i in body.pop("prompt"))
        del body["seed"]
        assert body == {
            "model": "served",
            "max_tokens": MAX_RESPONSE,
            "temperature": 0.7,
            "stop_token_ids": [policy.chat.end_of_turn],
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "n": 1,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "min_tokens": 0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": [],
            "echo": False,
            "stream": False,
        }


@pytest.mark.parametrize("fault", ["500", "503", "429", "abort", "bare abort", "cut", "silent", "no JSON", "slow"])
def test_a_passing_fault_changes_nothing(fake, make_sampler, monkeypatch, fault):
    expected = make_sampler().play(episodes())
    if fault == "slow":
        monkeypatch.setattr(vllm_server, "REQUEST_SECONDS", 0.3)
    fake.faults = ["", "", fault, fault, "", fault]
    before = len(fake.completions)
    assert responses(make_sampler().play(episodes())) == responses(expected)
    assert len(fake.completions) == before + before + 3
    assert not fake.faults


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["", "400"], "completions: expected status 200, found 400: .*it said no"),
        (["", *["500"] * 99], "completions: expected an answer in 5 attempts, found at the last: status 500"),
        (["", *["abort"] * 99], "expected an answer in 5 attempts, found at the last: finish_reason abort"),
        (["", "short"], "expected a response that ends with token .* or has 12 tokens, found 1 tokens .* 'length'"),
        (["", "unknown word"], "expected token ids of the policy's .*, found 1000000: another model"),
        (["", "other prompt"], "expected the .* token ids of the prompt, found .* other ones"),
        (["", "fractions"], "expected one choice with token ids and log-probabilities, found TypeError"),
        (["", "without log-probabilities"], "expected .* log-probabilities, found 0"),
        (["other log-probabilities"], "another model or vocabulary, old weights"),
        (["all NaN"], "expected log-probabilities, found NaN for all"),
    ],
    ids=str,
)
def test_a_lasting_fault_ends_the_play_with_one_message(fake, make_sampler, faults, message):
    fake.faults = list(faults)
    with pytest.raises(ServerError, match=message):
        make_sampler().play(episodes())


def test_a_server_that_is_down_is_said(make_sampler):
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9/v1/models: expected an answer in 5 attempts, .*Connect"):
        make_sampler(url="http://127.0.0.1:9").play(episodes())


@pytest.mark.parametrize("name", [7, None, ["policy"]], ids=str)
def test_a_served_model_without_a_name_is_said(fake, make_sampler, name):
    fake.name = name
    with pytest.raises(ServerError, match=r"/v1/models: expected a served model, found"):
        make_sampler().play(episodes())


def test_a_server_without_room_for_the_context_is_said(fake, make_sampler):
    fake.max_model_len = 256
    with pytest.raises(ServerError, match=r"max_model_len of at least sampling.max_context, 512, found 256"):
        make_sampler().play(episodes())


def test_an_error_of_an_environment_is_raised(make_sampler):
    class Broken(Once):
        def step(self, action: str | None) -> StepResult:
            raise RuntimeError("a broken environment")

    with pytest.raises(RuntimeError, match="a broken environment"):
        make_sampler(Arena(Broken)).play(episodes())


# -------------------------------------------------------------------------------------------------------------- weights
def loads(fake) -> list[str]:
    return [path for path, _ in fake.asked if not path.startswith("/v1/") and path != "/weight_info"]


def test_new_weights_are_loaded_once_and_change_what_is_sampled(fake, policy, make_sampler):
    sampler = make_sampler()
    first = sampler.play(episodes())
    whole = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume"]
    assert loads(fake) == whole
    again = sampler.play(episodes())
    assert (loads(fake), responses(again)) == (whole, responses(first))
    with torch.no_grad():
        policy.network.embedding[policy.chat.end_of_turn] *= 0.5
    sampler.server.stale = True
    changed = sampler.play(episodes())
    assert loads(fake) == whole * 2
    assert responses(changed) != responses(first)
    reported = np.concatenate([s.sampler_logprobs for t in changed for s in t.steps])
    np.testing.assert_allclose(reported, np.concatenate([s.logprobs for t in changed for s in t.steps]), **TOLERANCE)
    assert not list(sampler.server._scratch.iterdir()), "weights do not pile up"


def test_stale_weights_are_found_out(policy, make_sampler):
    sampler = make_sampler()
    sampler.play(episodes())
    with torch.no_grad():
        policy.network.embedding *= 0.3  # and nobody says so
    with pytest.raises(ServerError, match="another model or vocabulary, old weights"):
        sampler.play(episodes())


def test_another_jobs_weights_are_found_out(fake, make_sampler):
    sampler = make_sampler()
    fake.on_completion = lambda: setattr(fake, "version", "another job's")
    with pytest.raises(ServerError, match="a server serves one job at a time"):
        sampler.play(episodes())
    fake.on_completion = lambda: None
    assert sampler.play(episodes()), "the next play loads its own again"


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        (
            "/collective_rpc",
            (500, "no such shape"),
            "collective_rpc: expected an answer in 5 attempts, .*no such shape",
        ),
        ("/collective_rpc", (404, {}), "collective_rpc: expected vLLM's development routes"),
        ("/reset_prefix_cache", (200, {"success": False}), "reset_prefix_cache: expected .*success.*false"),
    ],
)
def test_weights_that_are_not_taken_end_the_play_and_the_server_is_resumed(fake, make_sampler, path, answer, message):
    fake.answers[path] = answer
    with pytest.raises(ServerError, match=message):
        make_sampler().play(episodes())
    assert loads(fake)[-1] == "/resume"
    assert not fake.completions


def test_weights_that_are_not_finite_are_found_out(fake, policy, make_sampler):
    sampler = make_sampler()
    sampler.play(episodes())
    policy.network.embedding.data.fill_(float("nan"))
    with pytest.raises((DivergenceError, ServerError)):
        sampler.play(episodes())


# --------------------------------------------------------------------------------------------------- importance weights
def test_a_missing_logprob_is_ratio_one(fake, make_sampler):
    fake.faults = ["", "NaN"]
    trajectories = make_sampler().play(episodes())
    steps = [step for t in trajectories for step in t.steps]
    assert sum(np.isnan(step.sampler_logprobs).sum() for step in steps) == 1
    tokens = sum(len(step.response_ids) for step in steps)
    metrics = importance_metrics(trajectories)
    assert metrics.pop("importance_ratio_missing") == pytest.approx(1 / tokens)
    assert list(metrics.values()) == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)
    weights = truncated_weights(trajectories, 2.0)
    torch.testing.assert_close(weights, torch.ones(tokens, dtype=torch.float64), **TOLERANCE)


def test_ratios_by_hand_and_through_a_table(policy):
    (one, *_) = native(policy).play(episodes(1, 2))
    first = one.steps[0]
    one.steps = [replace(first, logprobs=np.log(np.float32([0.5, 0.5, 0.2, 0.3])), sampler_logprobs=None)]
    assert importance_metrics([one]) == {}
    reported = np.log(np.float32([0.25, 0.1, 0.4, np.nan]))
    four = np.arange(4, dtype=np.int32)
    one.steps = [replace(one.steps[0], response_ids=four, entropies=reported, sampler_logprobs=reported)]
    (kept,) = from_table(to_table([one], iteration=0, policy_version=0), "alfworld")
    np.testing.assert_array_equal(kept.steps[0].sampler_logprobs, reported)
    assert truncated_weights([kept], 2.0).tolist() == pytest.approx([2.0, 2.0, 0.5, 1.0])
    expected = {"min": 0.5, "mean": 8.5 / 4, "max": 5.0, "missing": 0.25}
    assert importance_metrics([kept]) == pytest.approx({f"importance_ratio_{k}": v for k, v in expected.items()})
