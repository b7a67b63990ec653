"""EMPG in verl (https://github.com/verl-project/verl): ``algorithm.adv_estimator=empg``.

verl imports this module by itself, through its entry-point group ``verl.plugins``. Its V1 trainers then hand the
entropies of their pass for old log-probabilities to the estimator; an estimator that is registered alone gets none.

verl logs a plug-in that fails to load at the level of debugging alone. So nothing here fails when it is imported: what
is missing is the error of the estimator, and settings that cannot work are refused when the trainer is made. With the
variable ``VERL_USE_EXTERNAL_MODULES=empg.integrations.verl`` an installation without this module fails at once, too.

Tested with verl 0.9.1, whose inside this module uses. Experimental: it has not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
import verl
from numpy.typing import NDArray
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from empg.core.advantages import grpo
from empg.core.checks import require_number
from empg.integrations.steps import modulate_tokens

NAME = "empg"
VERSION = "0.9."
SETTINGS: Mapping[str, float | bool] = {"k": 1.0, "k_future": 1.0, "zeta": 0.05, "scale": True}
_TRAINER = "verl.trainer.ppo.v1.trainer_base"


class _Batch(NamedTuple):
    """What the trainer knows of a batch and does not tell an estimator."""

    entropy: Tensor  # [rows, tokens] in nats, at the sampling temperature
    keys: Sequence[str]  # UID_SESSION_INDEX of each row; the rows of a session are one trajectory
    metrics: dict[str, Any]


_BATCH: ContextVar[_Batch | None] = ContextVar("empg", default=None)
_problem = "expected the trainer V1 (trainer.use_v1=True), found another, which keeps entropies from estimators"


@register_adv_est(NAME)
def advantages(
    token_level_rewards: Tensor, response_mask: Tensor, config: Any, index: NDArray[np.object_], **_: Any
) -> tuple[Tensor, Tensor]:
    """Entropy-modulated advantages (arXiv 2509.09265) of GRPO's, and the same as returns; ``[rows, tokens]`` both.

    A step is a run of ones in ``response_mask`` ``[rows, tokens]``. A trajectory has the rewards of its last row, as in
    verl's GRPO, and its group is ``index`` ``[rows]``. The outcome advantage is :func:`empg.core.advantages.grpo`.
    Statistics are over all steps of the batch; its metrics get ``empg/…`` of
    :func:`~empg.integrations.steps.modulate_tokens`.

    Raises:
        RuntimeError: where verl gives no entropies, with the reason.
        ValueError: for settings that cannot work.
    """
    batch = _BATCH.get()
    if batch is None:
        raise RuntimeError(f"algorithm.adv_estimator=empg: {_problem}")
    names, places = zip(*(key.rsplit("_", 1) for key in batch.keys), strict=True)
    numbers = np.unique(names, return_inverse=True)[1]
    rows = torch.from_numpy(np.lexsort((np.array(places, dtype=int), numbers)))  # those of a session in their order
    session = torch.from_numpy(numbers)[rows]
    last = rows[torch.cat((session[1:] != session[:-1], torch.tensor([True])))]
    group = torch.from_numpy(np.unique(index[last.numpy()].astype(str), return_inverse=True)[1])
    outcome = grpo(token_level_rewards[last].sum(dim=1).double(), group)
    result = modulate_tokens(
        response_mask[rows].bool(), batch.entropy[rows], outcome[session], trajectory=session, **settings(config)
    )
    batch.metrics.update({f"empg/{name}": value for name, value in result.metrics.items()})
    advantage = torch.zeros_like(token_level_rewards)
    advantage[rows] = result.advantage.to(advantage.dtype)
    return advantage, advantage


def settings(config: Any) -> dict[str, Any]:
    """``algorithm.empg`` of verl's config, completed by the defaults. Raises ``ValueError`` for what cannot work."""
    given = dict(config.get("empg") or {})
    if unknown := sorted(set(given) - set(SETTINGS)):
        raise ValueError(f"algorithm.empg: expected {', '.join(SETTINGS)}, found {', '.join(unknown)}")
    options = {**SETTINGS, **given}
    require_number("algorithm.empg.k", options["k"], minimum=0)
    require_number("algorithm.empg.k_future", options["k_future"], minimum=0)
    require_number("algorithm.empg.zeta", options["zeta"])
    if not config.get("norm_adv_by_std_in_grpo", True):
        raise ValueError("algorithm.norm_adv_by_std_in_grpo: expected True with adv_estimator=empg, found False")
    correction = config.get("rollout_correction") or {}
    if correction.get("bypass_mode", False):
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode: expected False with adv_estimator=empg, found True: "
            "it leaves out the pass that gives the entropies"
        )
    if correction.get("rollout_rs") is not None:
        raise ValueError(
            "algorithm.rollout_correction.rollout_rs: expected null with adv_estimator=empg, "
            f"found {correction['rollout_rs']}: tokens that it rejects would cut steps in two"
        )
    return options


def _checked(made: Callable[..., None], trainer: Any, args: Any, kwargs: Any) -> None:
    """Around ``PPOTrainer.__init__``: refuse settings before anything is loaded or sampled."""
    made(*args, **kwargs)
    if trainer.config.algorithm.adv_estimator == NAME:
        settings(trainer.config.algorithm)


def _with_entropies(compute: Callable[..., Any], trainer: Any, args: Any, kwargs: Any) -> Any:
    """Around ``PPOTrainer._compute_advantage(batch, metrics)``."""
    if trainer.config.algorithm.adv_estimator != NAME:
        return compute(*args, **kwargs)
    from verl.utils.transferqueue_utils import tq

    named = dict(zip(("batch", "metrics"), args, strict=False)) | kwargs
    batch = named["batch"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["entropy"])
    token = _BATCH.set(_Batch(data.to_padded_tensor()["entropy"], batch.keys, named["metrics"]))
    try:
        return compute(**named)
    finally:
        _BATCH.reset(token)


def _wrap(module: Any) -> None:
    from wrapt import wrap_function_wrapper

    wrap_function_wrapper(module, "PPOTrainer.__init__", _checked)
    wrap_function_wrapper(module, "PPOTrainer._compute_advantage", _with_entropies)


if verl.__version__.startswith(VERSION):
    try:
        from wrapt import register_post_import_hook

        register_post_import_hook(_wrap, _TRAINER)  # it is large, and most of verl's processes never import it
    except ImportError:
        _problem = "expected wrapt, found none; pip install 'empg[verl]'"
else:
    _problem = f"expected verl {VERSION}x, found {verl.__version__}"
