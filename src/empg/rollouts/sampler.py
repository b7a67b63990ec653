"""Plays many episodes at once with one policy and one key-value cache per conversation.

Every token is encoded exactly once: a turn prefills its new observation and decodes its response into the cache of the
turns before it. A row that has finished its response waits while others decode, until enough rows wait to prefill their
observations together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from empg.environments.base import Arena, Environment, StepResult
from empg.errors import DivergenceError
from empg.policy.chat import Chat
from empg.policy.decoding import open_cache
from empg.policy.network import Network
from empg.policy.transformer import portions
from empg.rollouts.episodes import Episode, Step, StopReason, Trajectory

CACHE_BLOCK = 64  # slots that a full cache grows by, or a quarter of its length if that is more
PREFILL_TOKENS = 1024  # prefilled at once: bounds memory and changes nothing else
WAITING_SHARE = 0.15  # share of the rows that wait for an observation before a prefill
DEAD_SHARE = 0.1  # share of the rows that have ended before the cache is compacted


@dataclass(slots=True)
class Row:
    """One conversation in play."""

    trajectory: Trajectory
    environment: Environment
    random: np.random.Generator
    observation: str
    prompt: list[int]  # to be prefilled before the next response
    response: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    uniforms: list[float] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)  # a sampled token that is not in the cache yet


class Sampler:
    """Samples whole episodes. Raises :class:`DivergenceError` when the network's output is not finite.

    Args:
        network: the policy, in evaluation.
        chat: its tokenizer and template.
        arena: where the episodes are played.
        max_response: the most tokens of one response.
        max_context: the most tokens of one conversation.
        max_refused: invalid actions in a row that end the episode; 0 lets it go on to its step limit.
        rows: episodes in play at once; bounds memory.
        temperature: of the sampling distribution; logprobs and entropies are those of that distribution.
        greedy: take the most probable token.
    """

    def __init__(
        self,
        network: Network,
        chat: Chat,
        arena: Arena,
        *,
        max_response: int,
        max_context: int,
        max_refused: int = 0,
        rows: int = 256,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> None:
        self.network, self.chat, self.arena = network, chat, arena
        self.max_response = max_response
        self.max_context = min(max_context, network.max_positions)
        self.max_refused, self.rows = max_refused, rows
        self.temperature, self.greedy = temperature, greedy
        self.device = network.device

    @torch.no_grad()
    def play(self, episodes: Sequence[Episode], progress: Callable[[int], None] = lambda _: None) -> list[Trajectory]:
        """Play the episodes to their ends, in waves of ``rows``. Returns one trajectory for each, in order.

        ``progress`` is called with the number of episodes that have ended since its last call.
        """
        waves = [episodes[start : start + self.rows] for start in range(0, len(episodes), self.rows)]
        return [trajectory for wave in waves for trajectory in self._play(wave, progress)]

    def _play(self, episodes: Sequence[Episode], progress: Callable[[int], None]) -> list[Trajectory]:
        rows = [self._open(episode) for episode in episodes]
        trajectories = [row.trajectory for row in rows]
        rows = [row for row in rows if self._fits(row, 0)]
        progress(len(trajectories) - len(rows))
        if rows:
            _Batch(self, rows, progress).run()
        return trajectories

    def _open(self, episode: Episode) -> Row:
        environment = self.arena.make()
        observation = environment.reset(episode.task)
        random = np.random.Generator(np.random.Philox(key=episode.seed))
        return Row(Trajectory(episode), environment, random, observation, self.chat.opening(observation))

    def _fits(self, row: Row, length: int) -> bool:
        """Whether the next turn surely fits; if not, the episode ends here."""
        if length + len(row.carried) + len(row.prompt) + self.max_response <= self.max_context:
            row.uniforms = (1.0 - row.random.random(self.max_response)).tolist()  # in (0, 1]
            return True
        row.trajectory.stop_reason = StopReason.CONTEXT_LIMIT
        return False

    def draw(self, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next tokens, their log-probabilities and the entropies of their distributions (nats), each ``[rows]``.

        Inverse transform sampling: a row's token depends on its own uniform number only, not on its neighbours.

        Args:
            hidden: ``[rows, width]``, final hidden states.
            uniforms: ``[rows]``, in (0, 1].
        """
        logits = self.network.logits(hidden) / self.temperature
        logprobs = logits.log_softmax(-1)
        probabilities = logprobs.exp()
        entropies = -(probabilities * logprobs).sum(-1)
        if self.greedy:
            tokens = logprobs.argmax(-1)
        else:
            cumulative = probabilities.cumsum(-1)
            threshold = uniforms[:, None] * cumulative[:, -1:]
            tokens = (cumulative < threshold).sum(-1).clamp_(max=logits.shape[-1] - 1)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0], entropies

    def end_steps(self, rows: Sequence[Row]) -> list[bool]:
        """Hand finished responses to the environments, all at once. Returns whether each episode goes on."""
        texts = [self.chat.text(row.response) for row in rows]
        actions = [
            None if self._is_truncated(row) else self.arena.parse_action(text)
            for row, text in zip(rows, texts, strict=True)
        ]
        results = self.arena.step_all([row.environment for row in rows], actions)
        return [self._end_step(*step) for step in zip(rows, texts, actions, results, strict=True)]

    def _is_truncated(self, row: Row) -> bool:
        return row.response[-1] != self.chat.end_of_turn

    def _end_step(self, row: Row, text: str, action: str | None, result: StepResult) -> bool:
        ids, truncated = row.response, self._is_truncated(row)
        row.trajectory.steps.append(
            Step(
                observation=row.observation,
                prompt_ids=np.array(row.prompt, dtype=np.int32),
                response_ids=np.array(ids, dtype=np.int32),
                logprobs=np.array(row.logprobs, dtype=np.float32),
                entropies=np.array(row.entropies, dtype=np.float32),
                text=text,
                action=action,
                invalid=result.invalid,
                truncated=truncated,
            )
        )
        if self.arena.apart:  # the observation is a whole prompt, and the next turn a conversation of its own
            row.carried, row.prompt = [], self.chat.opening(result.observation)
        else:
            # The last sampled token enters the cache with the next observation, as does the end of a cut response.
            row.carried = ids[-1:]
            row.prompt = [self.chat.end_of_turn] * truncated + self.chat.reply(result.observation)
        row.observation, row.response, row.logprobs, row.entropies = result.observation, [], [], []
        row.trajectory.reward = result.reward
        row.trajectory.score = row.environment.score
        row.trajectory.stop_reason = self._stop_reason(row, result)
        row.trajectory.metrics = row.environment.metrics
        return row.trajectory.stop_reason is None

    def _stop_reason(self, row: Row, result: StepResult) -> str | None:
        steps = row.trajectory.steps
        if result.done:
            if result.reward == 1.0:
                return StopReason.SUCCESS
            return row.environment.limit or StopReason.FAILURE
        limit = self.max_refused or len(steps) + 1
        refused = len(steps) >= limit and all(step.invalid for step in steps[-limit:])
        return StopReason.REFUSED if refused else None


class _Batch:
    """The rows in play and their tensors: one wave of :meth:`Sampler.play`."""

    def __init__(self, sampler: Sampler, rows: list[Row], progress: Callable[[int], None]) -> None:
        self.sampler, self.rows, self.progress = sampler, rows, progress
        self.network, self.device = sampler.network, sampler.device
        self.waiting: list[int] = []  # rows whose response waits for the environment
        self.dead: set[int] = set()
        self._prefill_openings()

    def run(self) -> None:
        """Play every row's episode to its end."""
        decoding = list(range(len(self.rows)))
        while decoding:
            finished = self._decode(decoding)
            if finished:
                self.waiting += finished
                ended = set(finished)
                decoding = [r for r in decoding if r not in ended]
            alive = len(self.rows) - len(self.dead)
            if self.waiting and (not decoding or len(self.waiting) >= WAITING_SHARE * alive):
                decoding = sorted(decoding + self._turn())
            if len(self.dead) >= max(1, DEAD_SHARE * len(self.rows)):
                decoding = self._compact(decoding)

    def _turn(self) -> list[int]:
        """Let the environments answer the waiting rows and prefill the answers. Returns the rows that go on."""
        waiting, self.waiting = sorted(self.waiting), []
        goes_on = self.sampler.end_steps([self.rows[r] for r in waiting])
        if self.sampler.arena.apart:
            self.length[torch.tensor(waiting, device=self.device)] = 0
        going = []
        for r, on in zip(waiting, goes_on, strict=True):
            if on and self.sampler._fits(self.rows[r], int(self.length[r])):
                going.append(r)
            else:
                self.dead.add(r)
                self.length[r] = 0  # from here on it only fills a row of the batch
        self.progress(len(waiting) - len(going))
        if going:
            self._prefill(going, [self.rows[r].carried + self.rows[r].prompt for r in going])
        return going

    def _prefill_openings(self) -> None:
        """Encode each distinct opening once and copy its cache to the rows that share it."""
        distinct: dict[tuple[int, ...], int] = {}
        index = [distinct.setdefault(tuple(row.prompt), len(distinct)) for row in self.rows]
        prompts = [list(prompt) for prompt in distinct]
        longest = max(map(len, prompts))
        network = self.network
        self.cache = open_cache(network, len(prompts), longest + CACHE_BLOCK)
        self.length = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        self.hidden = torch.empty(len(prompts), network.width, dtype=network.dtype, device=self.device)
        self._prefill(list(range(len(prompts))), prompts)
        rows = torch.tensor(index, device=self.device)
        self.cache.select(rows)
        self.length, self.hidden = self.length[rows], self.hidden[rows]

    def _prefill(self, rows: list[int], chunks: list[list[int]]) -> None:
        """Append each row's chunk to its conversation and keep the hidden state of its last token."""
        sizes = [len(chunk) for chunk in chunks]
        start = self.length[torch.tensor(rows, device=self.device)].tolist()
        self._reserve(max(map(sum, zip(start, sizes, strict=True))))
        for part in portions(sizes, PREFILL_TOKENS):
            ids = torch.tensor([i for chunk in chunks[part] for i in chunk], device=self.device)
            row, size = (torch.tensor(x[part], device=self.device) for x in (rows, sizes))
            self.hidden[row] = self.cache.prefill(ids, sizes[part], start[part], rows[part])
            self.length[row] += size

    def _decode(self, decoding: list[int]) -> list[int]:
        """Sample one token for each decoding row. Returns the rows whose response ended with it."""
        sampler, rows = self.sampler, self.rows
        uniforms = torch.ones(len(rows), device=self.device)
        active = torch.tensor(decoding, device=self.device)
        position = [len(rows[r].response) for r in decoding]
        uniforms[active] = torch.tensor(
            [rows[r].uniforms[p] for r, p in zip(decoding, position, strict=True)], device=self.device
        )
        drawn = sampler.draw(self.hidden[active], uniforms[active])
        tokens, logprobs, entropies = (x.tolist() for x in drawn)
        if not math.isfinite(sum(entropies)):
            raise DivergenceError("sampler: expected finite entropies, found nan: the policy's weights are not finite")
        finished: list[int] = []
        going: list[int] = []
        for r, token, logprob, entropy in zip(decoding, tokens, logprobs, entropies, strict=True):
            row = rows[r]
            row.response.append(token)
            row.logprobs.append(logprob)
            row.entropies.append(entropy)
            ended = token == sampler.chat.end_of_turn or len(row.response) == sampler.max_response
            (finished if ended else going).append(r)
        if going:
            self._advance(active, drawn[0], going)
        return finished

    def _advance(self, active: Tensor, tokens: Tensor, going: list[int]) -> None:
        """Feed the sampled tokens. All rows take part, which spares copying the cache; only ``going`` rows advance."""
        ids = torch.zeros(len(self.rows), dtype=torch.long, device=self.device)
        ids[active] = tokens
        index = torch.tensor(going, device=self.device)
        self._reserve(int(self.length.max()) + 1)
        self.hidden = self.cache.decode(ids, self.length)
        self.length[index] += 1

    def _reserve(self, length: int) -> None:
        if length > self.cache.length:
            self.cache.grow(length + max(CACHE_BLOCK, length // 4))

    def _compact(self, decoding: list[int]) -> list[int]:
        """Drop the rows that have ended from every tensor. Returns the decoding rows' new numbers."""
        kept = [r for r in range(len(self.rows)) if r not in self.dead]
        number = {r: i for i, r in enumerate(kept)}
        if kept:
            index = torch.tensor(kept, device=self.device)
            self.cache.select(index)
            self.length, self.hidden = self.length[index], self.hidden[index]
        self.rows = [self.rows[r] for r in kept]
        self.waiting = [number[r] for r in self.waiting]
        self.dead = set()
        return [number[r] for r in decoding]
