"""EMPG in TRL (https://github.com/huggingface/trl), and the environments for its ``environment_factory``.

Tested with TRL 1.16, whose inside this module uses: ``pip install empg[trl]`` installs no other minor version.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from empg.core.checks import require_number
from empg.integrations.steps import modulate_tokens
from empg.integrations.trl_environment import ACT, DEEPSEARCH, Episode, Tool, environment, prompts

__all__ = ["ACT", "DEEPSEARCH", "EMPGTrainer", "Episode", "Tool", "environment", "prompts"]

# What a model takes beside token ids, by the names that TRL passes on.
_MODEL_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
_WHOLE_SEQUENCE = "weighs a whole sequence by the sign of its one advantage, but EMPG gives each step its own"


class _Scored(NamedTuple):
    """A forward pass of the policy while TRL scores a generation batch."""

    logprobs: Tensor
    entropies: Tensor


class EMPGTrainer(GRPOTrainer):
    """``GRPOTrainer`` with entropy-modulated advantages (arXiv 2509.09265) in place of one per completion.

    A step is a run of tokens that the model sampled: a turn with its tool calls, and the closing text. Its entropy is
    that of the full vocabulary at the sampling temperature, under the policy that sampled. Statistics are over all
    steps of the generation batch on all processes. Evaluation keeps TRL's advantages, which train nothing there.

    Logged beside TRL's metrics: ``empg/…``, of :func:`~empg.integrations.steps.modulate_tokens`, and
    ``empg/equal_reward_share``, the share of the summed \\|A\\| of all tokens in groups with equal rewards.

    Args:
        k: strength of the gradient scaling, ≥ 0.
        k_future: strength k' of the clarity bonus, ≥ 0.
        zeta: weight ζ of the clarity bonus (0.05 for ALFWorld and WebShop, 0.1 for Deep Search).
        scale: False leaves the clarity bonus alone.
        drop_equal: whether groups with equal rewards are kept out of statistics, loss and KL penalty, as DAPO's dynamic
            sampling does without sampling anew. Otherwise they still train on their clarity bonus.

    All other arguments are those of ``GRPOTrainer``.

    Raises:
        ValueError: for settings that cannot work with an advantage for each step, with the reason.
    """

    _tag_names = ["trl", "grpo", "empg"]  # noqa: RUF012 - as in TRL
    _name = "EMPG"
    _paper = {  # noqa: RUF012
        "title": "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents",
        "id": "2509.09265",
        "citation": textwrap.dedent("""\
            @article{wang2025harnessing,
                title   = {{Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents}},
                author  = {Jiawei Wang and Jiacai Liu and Yuqian Fu and Yingru Li and Xintao Wang and others},
                year    = 2025,
                journal = {arXiv preprint arXiv:2509.09265},
            }"""),
    }

    def __init__(
        self,
        *args: Any,
        k: float = 1.0,
        k_future: float = 1.0,
        zeta: float = 0.05,
        scale: bool = True,
        drop_equal: bool = False,
        **kwargs: Any,
    ) -> None:
        settings = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs).arguments.get("args")
        _refuse(type(self), settings)
        require_number("k", k, minimum=0)
        require_number("k_future", k_future, minimum=0)
        require_number("zeta", zeta)
        self._modulate = partial(modulate_tokens, k=k, k_future=k_future, zeta=zeta, scale=scale)
        self._drop_equal = drop_equal
        self._passes: list[_Scored] | None = None  # a list while a generation batch is scored
        self._group_rewards: Tensor | None = None
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return batch
        with self._recorded() as passes:
            batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"].bool()
        if "tool_mask" in batch:  # it is padded with 1
            mask &= batch["tool_mask"].bool()
        informative = self._informative_rows(len(mask))
        if self._drop_equal:
            mask &= informative[:, None]
            batch["tool_mask"] = mask.to(batch["completion_mask"].dtype)  # masks the loss, not the attention
            batch["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        advantage, metrics = self._modulate(
            mask,
            self._entropies(batch, passes),
            batch["advantages"],
            gather=self.accelerator.gather if self.accelerator.num_processes > 1 else None,
        )
        batch["advantages"] = advantage
        metrics["equal_reward_share"] = self._equal_reward_share(advantage, informative)
        for name, value in metrics.items():
            self._metrics["train"][f"empg/{name}"].append(value)
        return batch

    @contextmanager
    def _recorded(self) -> Iterator[list[_Scored]]:
        """Keeps the entropies of the policy's forward passes inside, which TRL would drop."""
        self._passes = []
        try:
            yield self._passes
        finally:
            self._passes = None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self._passes is None or model is not self.model:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        result = super()._get_per_token_logps_and_entropies(model, *args, **(kwargs | {"compute_entropy": True}))
        self._passes.append(_Scored(*result[:2]))
        return result

    def _entropies(self, batch: dict[str, Any], passes: list[_Scored]) -> Tensor:
        """Entropies under the policy that sampled: those of TRL's pass for old log-probabilities, else of one more.

        The pass is known by its result, since the reference of a LoRA policy runs through the same model.
        """
        for scored in passes:
            if scored.logprobs is batch.get("old_per_token_logps"):
                return scored.entropies
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            _, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model,
                ids,
                attention,
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
                **{name: batch[name] for name in _MODEL_INPUTS if name in batch},
            )
        assert isinstance(entropies, Tensor)
        return entropies

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)  # [rows of all processes, functions]
        self._group_rewards = rewards
        return rewards

    def _informative_rows(self, rows: int) -> Tensor:
        """Which of this process's rows are in a group with unequal rewards, ``[rows]`` bool.

        What TRL adds up before it normalises is compared as a sum, what it normalises first by function. Rows that no
        function scored do not count.
        """
        assert self._group_rewards is not None
        values = self._group_rewards * self.reward_weights.to(self._group_rewards.device)
        if self.multi_objective_aggregation == "sum_then_normalize":
            unscored = values.isnan().all(dim=1, keepdim=True)
            values = values.nansum(dim=1, keepdim=True).masked_fill(unscored, torch.nan)
        groups = values.view(-1, self.num_generations, values.shape[1])
        highest = groups.nan_to_num(nan=-torch.inf).amax(dim=1)
        lowest = groups.nan_to_num(nan=torch.inf).amin(dim=1)
        informative = (highest > lowest).any(dim=1).repeat_interleave(self.num_generations)
        first = self.accelerator.process_index * rows
        own: Tensor = informative[first : first + rows]
        return own

    def _equal_reward_share(self, advantage: Tensor, informative: Tensor) -> float:
        size = advantage.abs().double().sum(dim=1)
        equal, total = self.accelerator.reduce(torch.stack((size[~informative].sum(), size.sum())), reduction="sum")
        return float(equal / total) if total > 0 else 0.0


def _refuse(trainer: type, settings: Any) -> None:
    """Settings that cannot work with EMPG, each with its reason."""
    if any("async_grpo" in base.__module__ for base in (*trainer.__mro__, *type(settings).__mro__)):
        raise ValueError(
            "EMPGTrainer: expected GRPOConfig and GRPOTrainer, found TRL's asynchronous trainer, which takes one "
            "advantage for each sample and updates before a batch is complete; EMPG needs one for each step, over the "
            "whole batch"
        )
    if getattr(settings, "loss_type", None) == "vespo":
        raise ValueError(f"EMPGTrainer: loss_type: expected any but vespo, which {_WHOLE_SEQUENCE}")
    if getattr(settings, "off_policy_mask_threshold", None) is not None:
        raise ValueError(
            f"EMPGTrainer: off_policy_mask_threshold: expected None, found "
            f"{settings.off_policy_mask_threshold}; the mask {_WHOLE_SEQUENCE}"
        )
