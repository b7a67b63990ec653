"""What lists of episodes share: which episodes' steps are plain HTML, and how the rest lies in the page.

Every episode is on its list. The steps of a declared sample are plain HTML, so that a browser without scripts shows
them. Those of the rest are compressed inside the page, whose own script shows them when somebody opens or searches. So
a page needs no server and stays light.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from empg.report.security import content_policy
from empg.seeding import derive_seed

SAMPLE = 12  # episodes a page whose steps are plain HTML, or a few more


def drawn_first(groups: Sequence[int], *coordinates: str) -> set[int]:
    """The places of about :data:`SAMPLE` episodes: whole groups in random order, until there are enough.

    ``groups`` has the group of each episode; the coordinates seed the draw.
    """
    distinct = list(dict.fromkeys(groups))
    chosen: set[int] = set()
    for i in np.random.default_rng(derive_seed("listing", *coordinates)).permutation(len(distinct)):
        if len(chosen) >= SAMPLE:
            break
        chosen |= {place for place, group in enumerate(groups) if group == distinct[i]}
    return chosen


def page_parts(templates: Environment, bodies: Sequence[str]) -> dict[str, Any]:
    """The values of ``listing.html.j2``: the script, the policy that allows it, and every episode's steps, packed.

    ``bodies`` are HTML whose values their own template has escaped.
    """
    script = templates.get_template("episodes.js").render()
    packed = base64.b64encode(zlib.compress(json.dumps(list(bodies), ensure_ascii=False).encode(), 9)).decode()
    return {"script": Markup(script), "policy": content_policy(script), "packed": Markup(packed)}
