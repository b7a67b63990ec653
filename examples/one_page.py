"""EMPG on one page: sample groups, outcome advantage, entropies, modulate, clipped loss, update.

The toy task takes several steps. An agent walks through three rooms, each of one of six colours, and leaves each by one
of four doors. Every colour has one right door. In a room the agent writes two words, a thought and a door. The episode
is rewarded once, at its end: 1 if all three doors were right, else 0. By chance that is one episode in 64.

    python examples/one_page.py

The same loop for language models in real environments is src/empg/training/rl.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from empg.core.advantages import grpo
from empg.core.entropy import step_mean, token_statistics
from empg.core.loss import policy_loss, token_weights
from empg.core.modulation import modulate

COLOURS, ROOMS, WORDS = 6, 3, 4
NOTHING = WORDS  # the word before a thought
GROUPS, GROUP_SIZE, ITERATIONS, UPDATES = 16, 8, 80, 2


class Policy(nn.Module):
    """The next word's distribution from the room's colour and the word before: softmax(hidden · weightᵀ)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.colour, self.word = nn.Embedding(COLOURS, width), nn.Embedding(WORDS + 1, width)
        self.layer = nn.Linear(width, width)
        self.weight = nn.Parameter(0.1 * torch.randn(WORDS, width))

    def forward(self, colour: Tensor, before: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.colour(colour) + self.word(before)))

    def statistics(self, colour: Tensor, before: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each word and entropy of its distribution in nats."""
        return token_statistics(self(colour, before), self.weight, word)

    @torch.no_grad()
    def write(self, colour: Tensor, before: Tensor) -> Tensor:
        """A sampled word for each context."""
        return torch.distributions.Categorical(logits=self(colour, before) @ self.weight.T).sample()


def play(policy: Policy, colour: Tensor, right_door: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes through rooms of these colours, ``[episodes, rooms]``: the words before and written, and the rewards."""
    nothing = torch.full_like(colour, NOTHING)
    thought = policy.write(colour, nothing)
    door = policy.write(colour, thought)
    reward = (door == right_door[colour]).all(dim=1).double()
    return torch.stack((nothing, thought), dim=2), torch.stack((thought, door), dim=2), reward


def main(iterations: int = ITERATIONS, seed: int = 0) -> list[float]:
    """Train a policy and print its progress. Returns the success rate of each iteration's episodes."""
    torch.manual_seed(seed)
    right_door = torch.randint(WORDS, (COLOURS,))
    policy = Policy()
    optimiser = torch.optim.Adam(policy.parameters(), lr=2e-3)

    # The layout of a batch: episodes one after another, their steps in order, two words in each step.
    episodes, steps = GROUPS * GROUP_SIZE, GROUPS * GROUP_SIZE * ROOMS
    group = torch.arange(GROUPS).repeat_interleave(GROUP_SIZE)  # [episodes]
    step_episode = torch.arange(episodes).repeat_interleave(ROOMS)  # [steps]
    token_step = torch.arange(steps).repeat_interleave(2)  # [tokens]
    weight = token_weights("seq-mean-token-mean", step_episode[token_step], episodes)

    course = []
    for iteration in range(iterations):
        # Collect: a group is several episodes of one task, which is a sequence of rooms.
        task = torch.randint(COLOURS, (GROUPS, ROOMS)).repeat_interleave(GROUP_SIZE, dim=0)
        before, word, reward = play(policy, task, right_door)
        context = (task[:, :, None].expand_as(word).flatten(), before.flatten())
        word = word.flatten()
        with torch.no_grad():
            old_logprob, entropy = policy.statistics(*context, word)

        # Credit: one advantage for each episode from its group, modulated by the entropy of each step.
        outcome_advantage = grpo(reward, group)
        step_entropy = step_mean(entropy, token_step, steps)
        modulation = modulate(outcome_advantage, step_entropy, step_episode, k=1.0, k_future=1.0, zeta=0.05)
        advantage = modulation.advantage[token_step].float()

        # Update: the clipped loss. At the second update the policy is no longer the one that sampled.
        for _ in range(UPDATES):
            logprob, _ = policy.statistics(*context, word)
            loss = policy_loss(logprob, old_logprob, advantage, weight, clip_low=0.2, clip_high=0.2)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        course.append(reward.mean().item())
        if iteration % 10 == 0 or iteration == iterations - 1:
            scale = modulation.gradient_scale
            print(
                f"iteration {iteration:3}: success {course[-1]:5.1%}, step entropy {step_entropy.mean():.2f} nats, "
                f"gradient scale {scale.min():.2f} to {scale.max():.2f}",
                flush=True,
            )
    return course


if __name__ == "__main__":
    main()
