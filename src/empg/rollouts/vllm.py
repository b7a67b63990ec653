"""Plays episodes with a vLLM server in the place of the policy's own forward pass.

The server gets token ids and gives token ids: a conversation is never text again. It does not say entropies, and its
log-probabilities are those of other kernels. So the policy's own forward pass computes both anew for what was sampled,
and the server's log-probabilities stay beside them for the importance weights of the loss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from empg.config import Sampling
from empg.environments.base import Arena
from empg.errors import DivergenceError
from empg.policy.network import Network
from empg.policy.packing import Conversation, packs
from empg.policy.policy import Policy
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.rollouts.sampler import Row, Sampler
from empg.rollouts.vllm_client import Client, Drawing, ServerError
from empg.rollouts.vllm_server import Server
from empg.seeding import derive_seed

SCORED_TOKENS = 2048  # through the network at once: bounds memory
PROBED_TOKENS = 16
# Mean difference of log-probabilities (nats) between server and policy. In bfloat16 single tokens differ by up to 0.2
# and their mean by some hundredths; another model's, or another temperature's, differ by more.
AGREEMENT = 0.25


class VllmSampler(Sampler):
    """Samples whole episodes as :class:`Sampler` does, each turn by a request of its own, ``sampling.rows`` at once.

    A turn's seed derives from the episode's seed and the turn's number, whatever the order of requests.

    Raises:
        ServerError: the server is down, or answers what the policy's weights cannot give. Nothing is returned then.
        DivergenceError: the policy's own forward pass is not finite.
    """

    def __init__(
        self, policy: Policy, arena: Arena, server: Server, sampling: Sampling | None = None, *, greedy: bool = False
    ) -> None:
        """``sampling`` says how to draw; without it, as the server's settings say."""
        sampling = sampling or server.sampling
        super().__init__(
            policy.network,
            policy.chat,
            arena,
            max_response=sampling.max_response,
            max_context=sampling.max_context,
            max_refused=sampling.max_refused,
            rows=sampling.rows,
            temperature=sampling.temperature,
            greedy=greedy,
        )
        self.policy, self.server = policy, server

    def play(self, episodes: Sequence[Episode], progress: Callable[[int], None] = lambda _: None) -> list[Trajectory]:
        """Play the episodes to their ends. Returns one trajectory for each, in order."""
        url = self.server.url(self.policy)
        with ThreadPoolExecutor(1) as thread:
            trajectories = asyncio.run(self._play_all(url, episodes, _Turns(self, thread), progress))
        self._score(trajectories)
        return trajectories

    async def _play_all(
        self, url: str, episodes: Sequence[Episode], turns: _Turns, progress: Callable[[int], None]
    ) -> list[Trajectory]:
        seats = asyncio.Semaphore(self.rows)

        async def seated(client: Client, episode: Episode) -> Trajectory:
            async with seats:
                trajectory = await self._episode(client, episode, turns)
            progress(1)
            return trajectory

        async with self.server.connect(url) as client:
            await client.find_model(self.max_context)
            if not await self.server.has_current_weights(client):
                await self.server.load(client, self.policy)
                await self._probe(client)
            tasks = [asyncio.create_task(seated(client, episode)) for episode in episodes]
            try:
                trajectories = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if not await self.server.has_current_weights(client):
                raise ServerError(
                    f"{url}/weight_info: expected the weights that were loaded before the episodes, found others: "
                    "a server serves one job at a time"
                )
        return trajectories

    async def _episode(self, client: Client, episode: Episode, turns: _Turns) -> Trajectory:
        row = await turns.open(episode)
        ids: list[int] = []
        goes_on = self._fits(row, 0)
        while goes_on:
            ids = [] if self.arena.apart else ids
            ids += row.prompt
            seed = derive_seed(episode.seed, "turn", len(row.trajectory.steps))
            completion = await client.complete(ids, self._drawing(self.max_response), seed)
            self._check_ids(client, completion.ids)
            row.response, row.logprobs = completion.ids, completion.logprobs
            ids += completion.ids
            goes_on = await turns.end(row) and self._fits(row, 0 if self.arena.apart else len(ids) - len(row.carried))
        return row.trajectory

    def _drawing(self, max_tokens: int) -> Drawing:
        return Drawing(max_tokens, 0.0 if self.greedy else self.temperature, self.chat.end_of_turn)

    def _check_ids(self, client: Client, ids: Sequence[int]) -> None:
        words = len(self.network.output_weight)
        if wrong := [i for i in ids if not (isinstance(i, int) and 0 <= i < words)]:
            raise ServerError(
                f"{client.url}: expected token ids of the policy's {words}, found {wrong[0]!r}: another model"
            )

    async def _probe(self, client: Client) -> None:
        """Compare a short response with the policy's own forward pass, before hours depend on it."""
        prompt = self.chat.opening("Who are you?")
        drawing = Drawing(min(PROBED_TOKENS, self.max_response), self.temperature, self.chat.end_of_turn)
        completion = await client.complete(prompt, drawing, seed=0)
        self._check_ids(client, completion.ids)
        ids = [np.array(part, np.int32) for part in (prompt, completion.ids)]
        expected, _ = _statistics(self.network, [ids], self.temperature)
        self._compare(client.url, expected, np.array(completion.logprobs))

    def _score(self, trajectories: Sequence[Trajectory]) -> None:
        """Put the policy's own log-probabilities and entropies into the steps, and the server's beside them."""
        played = [t for t in trajectories if t.steps]
        if not played:
            return
        whole = [[s] for t in played for s in t.steps] if self.arena.apart else [t.steps for t in played]
        parts = [[ids for step in steps for ids in (step.prompt_ids, step.response_ids)] for steps in whole]
        logprobs, entropies = _statistics(self.network, parts, self.temperature)
        if not np.isfinite(entropies).all():
            raise DivergenceError("sampler: expected finite entropies, found nan: the policy's weights are not finite")
        steps = [step for t in played for step in t.steps]
        if not self.greedy:
            self._compare(
                str(self.server.sampling.url or "vllm"), logprobs, np.concatenate([s.logprobs for s in steps])
            )
        ends = np.cumsum([len(step.response_ids) for step in steps])[:-1]
        scored = iter(
            replace(step, logprobs=own, entropies=entropy, sampler_logprobs=self._reported(step))
            for step, own, entropy in zip(steps, np.split(logprobs, ends), np.split(entropies, ends), strict=True)
        )
        for trajectory in played:
            trajectory.steps = [next(scored) for _ in trajectory.steps]

    def _reported(self, step: Step) -> NDArray[np.float32] | None:
        """The server's log-probabilities; None for a greedy step, which was not drawn from a distribution."""
        return None if self.greedy else step.logprobs

    def _compare(self, url: str, own: NDArray[np.float32], reported: NDArray[np.floating]) -> None:
        known = np.isfinite(reported)
        if not known.any():
            raise ServerError(
                f"{url}: expected log-probabilities, found NaN for all of {len(own)} tokens: its weights are broken"
            )
        difference = float(np.abs(own[known] - reported[known]).mean())
        if difference > AGREEMENT:
            raise ServerError(
                f"{url}: expected the policy's log-probabilities within {AGREEMENT} nats on average, found "
                f"{difference:.2f} over {int(known.sum())} tokens: another model or vocabulary, old weights, or a "
                "server without --logprobs-mode processed_logprobs"
            )


class _Turns:
    """Opens episodes and ends their turns in one thread: environments may be slow, and none is made for several.

    The turns that wait are ended together, so that what asks a server of its own asks once for all.
    """

    def __init__(self, sampler: VllmSampler, thread: ThreadPoolExecutor) -> None:
        self._sampler, self._thread = sampler, thread
        self._waiting: list[tuple[Row, asyncio.Future[bool]]] = []
        self._ending: asyncio.Task[None] | None = None

    async def open(self, episode: Episode) -> Row:
        """The episode at its first observation."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._sampler._open, episode)

    async def end(self, row: Row) -> bool:
        """Hand the row's response to its environment. Returns whether the episode goes on."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end())
        return await future

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            rows = [row for row, _ in waiting]
            try:
                ended = await loop.run_in_executor(self._thread, self._sampler.end_steps, rows)
            except Exception as error:
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), goes_on in zip(waiting, ended, strict=True):
                if not future.done():
                    future.set_result(goes_on)


@torch.no_grad()
def _statistics(
    network: Network, conversations: Sequence[Sequence[NDArray[np.int32]]], temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probabilities and entropies (nats) of all response tokens, ``[tokens]``.

    A conversation is its prompts and responses in turn.
    """
    made = []
    for parts in conversations:
        sampled = [np.full(len(part), i % 2 == 1) for i, part in enumerate(parts)]
        made.append(Conversation(np.concatenate(parts), np.concatenate(sampled)))
    found = [pack.statistics(network, temperature) for pack in packs(made, SCORED_TOKENS, network.device)]
    logprob, entropy = (torch.cat(part).float().cpu().numpy() for part in zip(*found, strict=True))
    return logprob, entropy
