"""Two registrations: after `pip install ./examples/method`, a study may say
`{advantage: dr_grpo, modulation: entropy_shaping, alpha: 0.2}`.

A registration is a config model and the name of a function. Nothing here imports torch, so reading a study stays fast.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from empg.config import AdvantageRegistration, Aggregation, Model, ModulationRegistration


class DrGrpoSettings(Model):
    """``scale`` multiplies the advantage. Every method has ``aggregation``; here it gets Dr. GRPO's default."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    aggregation: Aggregation = "seq-mean-token-sum"


class EntropyShapingSettings(Model):
    """``alpha`` weighs the entropy; the term is at most |A| / ``kappa``."""

    alpha: Annotated[float, Field(ge=0)] = 0.4
    kappa: Annotated[float, Field(gt=1)] = 2.0


DR_GRPO = AdvantageRegistration(DrGrpoSettings, "empg_example_method.functions:dr_grpo")
ENTROPY_SHAPING = ModulationRegistration(EntropyShapingSettings, "empg_example_method.functions:entropy_shaping")
