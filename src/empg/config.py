"""The configuration: frozen models that refuse unknown keys. Class defaults are the vetted settings.

``config/data.yaml`` names data sets (what DVC owns); ``config/config.yaml`` and ``config/study/*.yaml`` describe
studies. Every stage gets the slice that it needs as a JSON file, so that changing one setting reruns only what depends
on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from empg.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


# --------------------------------------------------------------------------------------------------------------- data
class Sizes(Model):
    """Tasks written for each split. ``tune`` is for choosing hyperparameters and enters no report."""

    train: Positive = 2000
    valid_seen: Positive = 500
    valid_unseen: Positive = 500
    tune: Positive = 500


class AlfworldData(Model):
    """Games for ALFWorld: generated, or the official ones under ``$ALFWORLD_DATA/json_2.1.1``.

    The evaluation panels hold the generated tasks with the ids from ``panel_start`` on: another start, fresh panels.
    """

    type: Literal["alfworld"] = "alfworld"
    source: Literal["embedded", "official"] = "embedded"
    profile: Literal["small", "official"] = "small"
    seed: int = 0
    sizes: Sizes = Sizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class ShopSizes(Model):
    """Goals written for each split; the splits share no product. ``tune`` enters no report."""

    train: Positive = 2000
    valid: Positive = 500
    test: Positive = 500
    tune: Positive = 500


class WebshopData(Model):
    """A shop and goals for WebShop: generated, or made from upstream's own files under ``$WEBSHOP_DATA``."""

    type: Literal["webshop"]
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: ShopSizes = ShopSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class QuestionSizes(Model):
    """Questions written for each split: in distribution (``id``) and out of it (``ood``). ``tune`` enters no report."""

    train: Positive = 2000
    id: Positive = 500
    ood: Positive = 500
    tune: Positive = 500


class DeepsearchData(Model):
    """A corpus and questions for Deep Search: generated, or the user's own files under ``$DEEPSEARCH_DATA``."""

    type: Literal["deepsearch"]
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: QuestionSizes = QuestionSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


#: One of the three, told apart by ``type``.
Data = Annotated[AlfworldData | WebshopData | DeepsearchData, Field(discriminator="type")]


# ------------------------------------------------------------------------------------------------------------- policy
class TinyPolicy(Model):
    """A small network made from nothing, with a tokenizer trained on the environment's text.

    ``induction`` starts it with heads that repeat sequences: for names of several tokens.
    """

    type: Literal["tiny"] = "tiny"
    family: Literal["qwen2", "llama"] = "qwen2"
    vocab_size: Positive = 1000
    width: Positive = 96
    layers: Positive = 3
    heads: Positive = 4
    kv_heads: Positive = 2
    mlp_width: Positive = 256
    max_positions: Positive = 1024
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    induction: bool = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> TinyPolicy:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"expected width divisible by 2·heads and heads by kv_heads, "
                f"found width={self.width}, heads={self.heads}, kv_heads={self.kv_heads}"
            )
        return self


class PretrainedPolicy(Model):
    """Any Qwen2-, Qwen3- or Llama-family causal LM with a chat template: a folder or a hub id."""

    type: Literal["pretrained"]
    model: str
    gradient_checkpointing: bool = True


Policy = Annotated[TinyPolicy | PretrainedPolicy, Field(discriminator="type")]


class Sampling(Model):
    """How episodes are sampled. The loss uses the same temperature.

    ``max_refused`` invalid actions in a row end an episode; 0 lets it go on to its step limit. ``rows`` episodes are in
    play at once.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_response: Positive = 40
    max_context: Positive = 1024
    max_refused: Annotated[int, Field(ge=0)] = 2
    rows: Positive = 256


class Interface(Model):
    """What an agent sees and may do in WebShop (``observation``) and Deep Search (the rest); ALFWorld has no choice.

    ``retriever`` is ``local``, the data set's own index, or the address of a server. A search shows ``top_k``
    documents, in at most ``max_observation`` characters.
    """

    observation: Literal["text", "text_rich"] = "text_rich"
    retriever: Annotated[str, Field(pattern=r"^(local|https?://\S+)$")] = "local"
    top_k: Positive = 3
    max_searches: Positive = 8
    max_observation: Positive = 2000


class Optimiser(Model):
    """Muon on matrices and AdamW on the rest; ``muon_lr`` 0 leaves everything to AdamW."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    muon_lr: Annotated[float, Field(ge=0)] = 1.8e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


# ------------------------------------------------------------------------------------------------------------- stages
class WarmStart(Model):
    """Supervised fine-tuning on expert demonstrations; the budget is in tokens of packed conversations.

    ``max_steps`` bounds a demonstration, which mistakes and detours make longer than an agent's episode.
    """

    seed: int = 1
    tokens: Annotated[int, Field(ge=0)] = 2_200_000
    batch_tokens: Positive = 4096
    micro_batch_tokens: Positive = 16384
    max_steps: Positive = 20
    mistake_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    mistake_rate: Annotated[float, Field(ge=0, le=1)] = 0.15
    detour_rate: Annotated[float, Field(ge=0, le=1)] = 0.15
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.03
    decay: Annotated[float, Field(ge=0, le=1)] = 0.4
    optimiser: Optimiser = Optimiser(lr=4e-3, muon_lr=2e-2)
    threads: Positive = 2


class Rollouts(Model):
    """The collection from the warm-start policy: the difficulty table and every run's first batch."""

    seed: int = 0
    tasks: Positive = 64


class Train(Model):
    """The reinforcement learning loop; one iteration collects a batch, credits it and updates the policy.

    ``reward`` is what an episode is trained with: its outcome (1 for success, else 0) or its dense score.
    """

    iterations: Positive = 70
    groups: Positive = 16
    group_size: Annotated[int, Field(ge=2)] = 4
    updates: Positive = 2
    decay: Annotated[float, Field(ge=0, le=1)] = 0.3
    reward: Literal["success", "score"] = "success"
    micro_batch_tokens: Positive = 4096
    difficulty_floor: Annotated[float, Field(gt=0, le=1)] = 0.25
    checkpoint_every: Positive = 5
    optimiser: Optimiser = Optimiser()


class Evaluate(Model):
    """Fixed panels: every task of each split, greedy once and sampled once."""

    seed: int = 0
    splits: tuple[Name, ...] = ("valid_seen", "valid_unseen")


class EnvironmentStudy(Model):
    """Everything about one environment in a study but its data."""

    max_steps: Positive = 12
    system: str = ""
    interface: Interface = Interface()
    zeta: Annotated[float, Field(ge=0)] = 0.05
    policy: Policy = TinyPolicy()
    sampling: Sampling = Sampling()
    warmstart: WarmStart = WarmStart()
    rollouts: Rollouts = Rollouts()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


# ------------------------------------------------------------------------------------------------------------ methods
class _Method(Model):
    """Outcome advantage × modulation. ``zeta`` empty takes the environment's."""

    modulation: Literal["none", "empg", "empg_scale", "empg_bonus"] = "none"
    k: Annotated[float, Field(ge=0)] = 1.0
    k_future: Annotated[float, Field(ge=0)] = 1.0
    zeta: Annotated[float, Field(ge=0)] | None = None
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    kl_coef: Annotated[float, Field(ge=0)] = 0.01
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "seq-mean-token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    overlong_cache: Annotated[int, Field(ge=0)] = 0


class Grpo(_Method):
    advantage: Literal["grpo"]


class Dapo(_Method):
    """DAPO's four parts: clip-higher, token mean, dynamic sampling (rounds at most), soft overlong punishment."""

    advantage: Literal["dapo"]
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 2
    overlong_cache: Annotated[int, Field(ge=0)] = 8


class Rloo(_Method):
    advantage: Literal["rloo"]


class Gigpo(_Method):
    advantage: Literal["gigpo"]
    omega: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95


Method = Annotated[Grpo | Dapo | Rloo | Gigpo, Field(discriminator="advantage")]


class Study(Model):
    """A grid: environments × methods × seeds."""

    study: Name = "quick"
    description: str = ""
    environments: dict[Name, EnvironmentStudy]
    methods: dict[Name, Method]
    baseline: Name = "grpo"
    seeds: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _complete(self) -> Study:
        for name in ("environments", "methods", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, found none")
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: expected one of {', '.join(self.methods)}, found {self.baseline!r}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected distinct seeds, found {list(self.seeds)}")
        return self


# ------------------------------------------------------------------------------------------------- the stages' slices
class WarmStartRun(Model):
    """What the warm-start stage depends on."""

    environment: Name
    data: Data
    system: str
    interface: Interface
    policy: Policy
    warmstart: WarmStart


class RolloutsRun(Model):
    """What the rollout stage depends on, besides the warm-start model."""

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    sampling: Sampling
    rollouts: Rollouts
    group_size: Positive


class TrainRun(Model):
    """What one training run depends on, besides the warm-start model and its rollouts."""

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    policy: Policy
    sampling: Sampling
    train: Train
    method_name: Name
    method: Method
    seed: int


class EvaluateRun(Model):
    """What one evaluation depends on, besides the model. ``method_name`` is ``warmstart`` for the warm start itself."""

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    sampling: Sampling
    evaluate: Evaluate
    method_name: Name
    seed: int


def _common(study: Study, data: dict[str, Data], environment: str) -> dict[str, Any]:
    e = study.environments[environment]
    return {"environment": environment, "data": data[environment], "system": e.system, "interface": e.interface}


def warmstart_run(study: Study, data: dict[str, Data], environment: str) -> WarmStartRun:
    e = study.environments[environment]
    return WarmStartRun(**_common(study, data, environment), policy=e.policy, warmstart=e.warmstart)


def rollouts_run(study: Study, data: dict[str, Data], environment: str) -> RolloutsRun:
    e = study.environments[environment]
    return RolloutsRun(**_common(study, data, environment), max_steps=e.max_steps, sampling=e.sampling,
                       rollouts=e.rollouts, group_size=e.train.group_size)  # fmt: skip


def train_run(study: Study, data: dict[str, Data], environment: str, method: str, seed: int) -> TrainRun:
    e, m = study.environments[environment], study.methods[method]
    if m.zeta is None:
        m = m.model_copy(update={"zeta": e.zeta})
    return TrainRun(**_common(study, data, environment), max_steps=e.max_steps, policy=e.policy, sampling=e.sampling,
                    train=e.train, method_name=method, method=m, seed=seed)  # fmt: skip


def evaluate_run(study: Study, data: dict[str, Data], environment: str, method: str, seed: int) -> EvaluateRun:
    e = study.environments[environment]
    return EvaluateRun(**_common(study, data, environment), max_steps=e.max_steps, sampling=e.sampling,
                       evaluate=e.evaluate, method_name=method, seed=seed)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ reading
T = TypeVar("T")
DATA: TypeAdapter[Data] = TypeAdapter(Data)


def parse(model: type[T] | TypeAdapter[T], value: Any, where: str) -> T:
    """Validate; raises :class:`ConfigError` that names the file, each key, what was expected and what was found."""
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        lines = [
            f"{where}: {'.'.join(str(part) for part in e['loc']) or '(top level)'}: {e['msg']}, found {e['input']!r}"
            for e in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def read_yaml(path: Path) -> Any:
    """Raises :class:`ConfigError` that names the file when it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a YAML file, found none") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected YAML, found {error}") from None


def load_data(path: Path) -> dict[str, Data]:
    """The data sets of ``config/data.yaml`` by name."""
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of data set names, found {type(value).__name__}")
    return {name: parse(DATA, entry, f"{path}: {name}") for name, entry in value.items()}


def load_study(path: Path, data: dict[str, Data]) -> Study:
    """A study; each of its environments must be a data set."""
    study = parse(Study, read_yaml(path), str(path))
    for name in study.environments:
        if name not in data:
            raise ConfigError(
                f"{path}: environments.{name}: expected one of the data sets {', '.join(data)}, found {name!r}"
            )
    return study
