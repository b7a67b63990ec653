"""Models whose forward pass is `transformers`' own: every family but those of :mod:`empg.policy.transformer`, and LoRA.

Sequences go through the model one a row, padded on the right, which a causal model does not see. Sampling keeps a cache
(:mod:`empg.policy.foreign_cache`).
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from empg.config import Lora
from empg.core.entropy import default_chunk, renyi2_entropy
from empg.errors import ConfigError, DataError
from empg.files import read_json
from empg.policy.foreign_cache import ForeignCache
from empg.policy.network import Network
from empg.policy.prefix_tree import PrefixTree
from empg.policy.reading import reading
from empg.policy.weights import write_config

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}  # of logits, in the check at loading
ATTENTION = {"full_attention", "sliding_attention"}


def load_foreign(folder: Path, device: str, dtype: torch.dtype, lora: Lora | None = None) -> Foreign:
    """The folder's network by `transformers`, with a new adapter where ``lora`` is given.

    Raises :class:`DataError` for an architecture that `transformers` does not know or that this module cannot run
    exactly, and for weights that are missing, of another shape or not finite; :class:`ConfigError` for an adapter on
    modules that the model lacks.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    loader: Any = AutoModelForCausalLM
    kind = read_json(folder / "config.json").get("model_type")
    with reading(f"{folder / 'config.json'}: model_type {kind!r}", "a causal language model that transformers loads"):
        model, about = loader.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    for what in ("missing_keys", "mismatched_keys"):
        if about[what]:
            raise DataError(
                f"{folder}: tensors: expected all of a {kind} model's, found {what} {sorted(about[what])[:3]}"
            )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise DataError(f"{folder}: tensor {name}: expected finite numbers, found NaN or infinity")
    network = Foreign(model.to(device), str(folder))
    network.check()
    if lora is not None:
        network.add_lora(lora)
    return network


class Foreign(Network):
    """A model of `transformers` behind the interface of :class:`Network`.

    Args:
        model: a causal language model.
        where: names it in errors.
    """

    def __init__(self, model: Any, where: str) -> None:
        super().__init__()
        self.model = model.eval()
        self.where = where
        self.gradient_checkpointing = False
        self.config = model.config.get_text_config()
        for module in model.modules():  # sampling and training must see one function
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0
        kinds = set(getattr(self.config, "layer_types", None) or ATTENTION)
        if not kinds <= ATTENTION:
            raise DataError(f"{where}: layer_types: expected only attention, found {', '.join(sorted(kinds))}")
        accepted = inspect.signature(self.decoder.forward).parameters
        self.takes_positions = "position_ids" in accepted

    @property
    def decoder(self) -> Any:
        """The model without its head."""
        return self.model.base_model if self.model.base_model is not self.model else self.model.model

    @property
    def head(self) -> Any:
        return self.model.get_output_embeddings()

    @property
    def output_weight(self) -> Tensor:
        return cast("Tensor", self.head.weight)

    @property
    def max_positions(self) -> int:
        return int(self.config.max_position_embeddings)

    def matrices(self) -> list[nn.Parameter]:
        outer = {id(self.head.weight), id(self.model.get_input_embeddings().weight)}
        return [p for p in self.model.parameters() if p.dim() == 2 and id(p) not in outer]

    def freeze_embeddings(self) -> None:
        self.model.get_input_embeddings().weight.requires_grad_(False)
        self.head.weight.requires_grad_(False)

    def forward(self, tree: PrefixTree, wanted: Tensor | None = None) -> Tensor:
        """Final hidden states of the tree's tokens, as :meth:`empg.policy.transformer.Transformer.forward` gives them.

        What branches share goes through the model once for each: the tree saves nothing here.
        """
        places = torch.split(tree.paths, tree.lengths)
        rows = pad_sequence([tree.ids[p] for p in places], batch_first=True)
        saves_memory = self.gradient_checkpointing and torch.is_grad_enabled()
        if saves_memory:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            self.model.train()
        hidden = self.decoder(input_ids=rows, use_cache=False).last_hidden_state
        self.model.eval()
        own = [h[n - added : n] for h, n, added in zip(hidden, tree.lengths, tree.added, strict=True)]
        states = torch.cat(own)
        return states if wanted is None else states[wanted]

    def logits(self, hidden: Tensor) -> Tensor:
        """The head's logits, with the scale or the cap that some families put on them, in float32."""
        logits = self.head(hidden).float()
        if scale := getattr(self.config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(self.config, "logits_scaling", None):  # Granite
            logits = logits / scale
        if cap := getattr(self.config, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * (logits / cap).tanh()
        return cast("Tensor", logits)

    def statistics(self, hidden: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        size = default_chunk(len(self.output_weight))
        parts = [
            checkpoint(self._statistics, h, t, temperature, use_reentrant=False)
            for h, t in zip(torch.split(hidden, size), torch.split(target, size), strict=True)
        ]
        logprob, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        return logprob, entropy

    def _statistics(self, hidden: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs = (self.logits(hidden) / temperature).log_softmax(-1)
        return logprobs.gather(1, target[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)

    def renyi2(self, hidden: Tensor, temperature: float) -> Tensor:
        chunks = torch.split(hidden, default_chunk(len(self.output_weight)))
        return torch.cat([renyi2_entropy(self.logits(h) / temperature) for h in chunks]).clamp_(min=0)

    def open_cache(self, rows: int, length: int) -> ForeignCache:
        return ForeignCache(self, rows)

    @torch.no_grad()
    def check(self) -> None:
        """Compare logits with the model's own, also through a cache with holes, on a few tokens.

        Raises :class:`DataError` where they differ: then the family does something that this module does not know.
        """
        vocabulary = len(self.output_weight)
        ids = torch.arange(1, 10, device=self.device) * (vocabulary // 11 + 1) % vocabulary
        expected = self.model(input_ids=ids[None]).logits[0].float()
        try:
            whole, cached = self._in_both_ways(ids)
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise DataError(
                f"{self.where}: model_type: expected a family that attends by masks and positions, "
                f"found {self.config.model_type!r}: {error}"
            ) from None
        bound = TOLERANCE.get(self.dtype, 1e-3) * max(1.0, float(expected.abs().max()))
        for name, found, own in (("logits", whole, expected), ("cached logits", cached, expected[[8, 8]])):
            worst = float((found - own).abs().max())
            if not worst <= bound:
                kind = self.config.model_type
                raise DataError(
                    f"{self.where}: model_type: expected a family whose {name} follow from hidden states and attention "
                    f"masks, found {kind!r}, which differs by {worst:.3g}"
                )

    def _in_both_ways(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of nine tokens, ``[9, vocabulary]``, and twice those of the last, after three calls with a cache."""
        whole = self.logits(self.states(ids))
        cache = ForeignCache(self, 2)
        cache.prefill(torch.cat((ids[:4], ids[:6])), [4, 6], [0, 0], [0, 1])
        for n in (4, 5):
            cache.decode(
                ids[[n, 0]], torch.tensor([n, 6], device=self.device)
            )  # the second row's token is no part of it
        cached = self.logits(cache.prefill(ids[6:9].repeat(2), [3, 3], [6, 6], [0, 1]))
        return whole, cached

    def add_lora(self, lora: Lora) -> Any:
        """Freeze the model and add adapters (arXiv 2106.09685), by `peft`, whose model around this one is returned.

        The adapters' first function is the model's.
        """
        from peft import LoraConfig, get_peft_model

        linear = {
            name.rpartition(".")[2]
            for name, m in self.model.named_modules()
            if isinstance(m, nn.Linear) and m is not self.head
        }
        missing = sorted(set(lora.targets) - linear)
        if missing:
            raise ConfigError(
                f"policy.lora.targets: expected some of {', '.join(sorted(linear))}, which {self.where} has, "
                f"found {', '.join(missing)}"
            )
        targets = sorted(lora.targets or linear)
        settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
        with warnings.catch_warnings():  # peft asks by a name that `transformers` calls deprecated
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            return get_peft_model(self.model, settings)  # changes the model's modules in place

    def save(self, config: dict[str, Any], folder: Path) -> None:
        """Write the model, adapters merged into its weights, with ``config`` as its settings."""
        from peft.tuners.lora import LoraLayer

        merged: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, module in self.model.named_modules():
                if isinstance(module, LoraLayer):
                    layer: Any = module
                    weight, change = layer.get_base_layer().weight, layer.get_delta_weight("default")
                    merged[f"{name}.weight"] = (weight.float() + change.float()).to(weight.dtype)
        state = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in self.model.state_dict().items()
            if ".lora_" not in name
        }
        self.model.save_pretrained(folder, state_dict=state | merged)
        write_config(config, self.dtype, folder)
