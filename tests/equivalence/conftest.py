"""A tiny policy with random weights and a tokenizer of real games' text; its answers end now and then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch

from empg.config import TinyPolicy
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.text import format_step
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.policy.tokenizer import train_tokenizer
from empg.training.warmstart import texts, tiny_policy

GAMES = GeneratedGames("small", 0)
SIZES = {"width": 32, "heads": 4, "kv_heads": 2, "layers": 2, "mlp_width": 48, "max_positions": 512}


@pytest.fixture(scope="session")
def chat() -> Chat:
    """A tokenizer of the games' own text."""
    environment = AlfworldEnvironment(GAMES, 20)
    demonstrations = [demonstrate(environment, task, Random(0)) for task in GAMES.tasks("train", range(12))]
    tokenizer = train_tokenizer([text for d in demonstrations for text in texts(d, "", format_step)], 330)
    return Chat(tokenizer, "", "the test's tokenizer")


@pytest.fixture(scope="session")
def make_policy(chat: Chat) -> Callable[[str], Policy]:
    """A policy of a family. Its entropies vary, and about every eighth token ends a turn.

    The first component of the hidden states hardly varies, so a token is likely whose embedding is large there.
    """

    @torch.no_grad()
    def make(family: str) -> Policy:
        policy = tiny_policy(TinyPolicy(family=family, **SIZES), chat, seed=0)
        network = policy.network
        network.embedding *= 15
        network.embedding[:, 0] = 1.0
        network.embedding[chat.end_of_turn, 0] = 2.5
        for layer in network.layers:
            if layer.qkv_bias is not None:
                layer.qkv_bias += 0.1
        return policy

    return make
