"""``arithmetic: portable``: it computes what torch computes, it is set up in time, and it rounds alike everywhere."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from empg import arithmetic, cli, provenance
from empg.audit import fingerprint
from empg.audit.fingerprint import ENVIRONMENTS, Row
from empg.config import Study, WarmStartRun, parse
from empg.errors import ConfigError
from empg.files import write_json

PAGE = Path(__file__).parents[2] / "docs" / "same-bits.md"
TABLE = PAGE.with_suffix(".csv")
EXTEND = "`empg fingerprint --page docs/same-bits.md` adds a row"
WARM_START = {"environment": "rooms", "data": {"type": "alfworld"}, "system": "", "interface": {}, "warmstart": {}}
needs_avx2 = pytest.mark.skipif(not arithmetic.has_avx2(), reason="portable arithmetic needs AVX2")

# Prints the greatest difference of each operation from float64 sums of torch's own kernels.
COMPARE = """
import torch
from torch.nn import functional as F
torch.manual_seed(0)
a, b, c = torch.randn(5, 70), torch.randn(70, 9), torch.randn(5, 9)
x, y, z = torch.randn(3, 5, 70), torch.randn(3, 70, 9), torch.randn(3, 5, 9)
q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 11, 8), torch.randn(1, 2, 11, 8)
mask = torch.zeros(6, 11).masked_fill_(torch.rand(6, 11) < 0.3, -torch.inf)
mask[:, 0] = 0
def attention(q, k, v, **options):
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*leaves, enable_gqa=True, **options)
    out.sin().sum().backward()
    return torch.cat([t.flatten() for t in (out.detach(), *(t.grad for t in leaves))])
def gradients(a, b):
    leaves = [t.clone().requires_grad_() for t in (a, b)]
    (leaves[0] @ leaves[1]).sin().sum().backward()
    return torch.cat([t.grad.flatten() for t in leaves])
cases = {
    "mm": lambda: a @ b,
    "mm transposed": lambda: b.T @ a.T,
    "mm.out": lambda: torch.mm(a, b, out=torch.empty(5, 9, dtype=a.dtype)),
    "mm of nothing": lambda: a[:0] @ b,
    "addmm": lambda: torch.addmm(c, a, b, beta=0.5, alpha=2.0),
    "addmm without c": lambda: torch.addmm(c * torch.nan, a, b, beta=0),
    "addmm_": lambda: c.clone().addmm_(a, b, beta=0.5, alpha=2.0),
    "addmm.out": lambda: torch.addmm(c, a, b, out=torch.empty(0, dtype=a.dtype)),
    "linear": lambda: F.linear(a, b.T.contiguous(), c[0]),
    "bmm": lambda: x @ y,
    "bmm transposed": lambda: y.mT @ x.mT,
    "bmm.out": lambda: torch.bmm(x, y, out=torch.empty(3, 5, 9, dtype=a.dtype)),
    "baddbmm": lambda: torch.baddbmm(z, x, y, beta=0.5, alpha=2.0),
    "mv": lambda: a @ b[:, 0],
    "addmv": lambda: torch.addmv(c[:, 0], a, b[:, 0]),
    "einsum": lambda: torch.einsum("bij,bjk->ik", x, y),
    "gradients": lambda: gradients(a, b),
    "attention": lambda: attention(q, k, v, attn_mask=mask.to(q.dtype)),
    "attention, choice": lambda: attention(q, k, v, attn_mask=mask == 0),
    "causal attention": lambda: attention(q, k[:, :, :6], v[:, :, :6], is_causal=True),
    "attention in strides": lambda: attention(q.mT.contiguous().mT, k, v, scale=0.3),
    "qr": lambda: (lambda q, r: q @ r)(*torch.linalg.qr(a)),
    "pinv": lambda: torch.linalg.pinv(a),
    "logsumexp": lambda: torch.logsumexp(a, 0),
    "whole numbers": lambda: torch.arange(4).exp(),
} | {
    f"{name}{kind}": lambda name=name, kind=kind: {
        "": lambda t: getattr(torch, name)(t),
        "_": lambda t: getattr(t.clone(), name + "_")(),
        ".out": lambda t: getattr(torch, name)(t, out=torch.empty(0, dtype=t.dtype)),
        " in strides": lambda t: getattr(torch, name)(t.T),
    }[kind](a.abs() + 0.1)
    for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh")
    for kind in ("", "_", ".out", " in strides")
}
NAMES = "a b c x y z q k v".split()
small = {name: globals()[name] for name in NAMES}
globals().update({name: t.double() for name, t in small.items()})
exact = {name: case() for name, case in cases.items()}
from empg import arithmetic
arithmetic.install()
double = {name: case() for name, case in cases.items()}
globals().update(small)
for name, case in cases.items():
    found = case()
    assert found.dtype == torch.float32 and found.shape == exact[name].shape, name
    for computed in (double[name], found):
        limit = 2e-5 if torch.float32 in (computed.dtype, exact[name].dtype) else 1e-12
        torch.testing.assert_close(computed.double(), exact[name].double(), rtol=limit, atol=limit, msg=name)
print(len(cases), "agree")
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *arguments], os.environ | variables
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@needs_avx2
def test_what_replaces_torchs_kernels_computes_the_same():
    done = run("-c", COMPARE, **arithmetic.VARIABLES)
    assert done.stdout == "53 agree\n", done.stderr


def test_without_its_variables_it_is_refused(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    with pytest.raises(ConfigError, match="ATEN_CPU_CAPABILITY, OPENBLAS_CORETYPE"):
        arithmetic.install()


def test_it_is_prepared_before_torch_is_imported(tmp_path, monkeypatch):
    """The command line imports neither torch nor numpy before the settings have been asked."""
    code = "import sys; from empg import cli; from empg.pipeline import job_files, needs"
    code += "; print({'torch', 'numpy'} & set(sys.modules))"
    assert run("-c", code).stdout == "set()\n"
    for kind in ("native", "portable"):
        write_json(tmp_path / "config.json", {"arithmetic": kind})
        assert cli._arithmetic(argparse.Namespace(command="train", config=tmp_path / "config.json")) == kind
    assert cli._arithmetic(argparse.Namespace(command="data", config=Path("config/data.yaml"))) == "native"
    monkeypatch.chdir(PAGE.parents[1])
    assert cli._arithmetic(argparse.Namespace(command="tune", study=None)) == "native"
    assert cli._arithmetic(argparse.Namespace(command="fingerprint", arithmetic="portable")) == "portable"


@pytest.mark.parametrize("kind", ["native", "portable"])
def test_a_stage_installs_what_its_settings_ask_for(tmp_path, monkeypatch, kind):
    installed = []
    monkeypatch.setattr(arithmetic, "install", lambda: installed.append(True))
    config = parse(WarmStartRun, WARM_START | {"policy": {"type": "tiny"}, "arithmetic": kind}, "test")
    threads = torch.get_num_threads()
    try:
        with provenance.stage("warmstart", config, tmp_path / "out", inputs={}):
            pass
    finally:
        torch.set_num_threads(threads)
    assert installed == [True] * (kind == "portable")


def test_a_pretrained_policy_is_refused():
    study = {
        "methods": {"grpo": {"advantage": "grpo"}},
        "seeds": [1],
        "arithmetic": "portable",
        "environments": {"rooms": {"policy": {"type": "pretrained", "model": "a"}}},
    }
    with pytest.raises(
        ConfigError, match=r"arithmetic: expected native with environments.rooms.policy.type pretrained"
    ):
        parse(Study, study, "study.yaml")


@needs_avx2
def test_this_processor_computes_the_bits_of_the_table():
    """Every portable row has the hashes that this processor computes.

    On a processor that the table does not know, other bits are a finding and no mistake of whoever runs the tests.
    """
    versions = version("torch").partition("+")[0], version("numpy")
    rows = [
        row for row in fingerprint.read(TABLE) if row.arithmetic == "portable" and row.key[2:] == ("full", *versions)
    ]
    if not rows:
        pytest.skip(f"no portable row for torch {versions[0]} and numpy {versions[1]}; {EXTEND}")
    done = run("-m", "empg", "fingerprint")
    found = dict(line.split(": ") for line in done.stdout.splitlines()[1:])
    assert set(found) == set(ENVIRONMENTS), done.stderr
    expected, own = {row.hashes for row in rows}, tuple(found.values())
    if expected != {own} and fingerprint.processor_model() not in {row.processor for row in rows}:
        pytest.xfail(f"{fingerprint.processor_model()}: the first such processor, and it computes other bits; {EXTEND}")
    assert expected == {own}


def test_all_processors_of_the_table_computed_the_same_portably():
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for row in fingerprint.read(TABLE):
        if row.arithmetic == "portable":
            found.setdefault(row.key[2:], set()).add(row.hashes)
    assert {key: len(hashes) for key, hashes in found.items()} == dict.fromkeys(found, 1)


def test_the_page_has_the_table():
    assert fingerprint.markdown(fingerprint.read(TABLE)) in PAGE.read_text(encoding="utf-8")


def test_a_row_replaces_the_one_it_supersedes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{fingerprint.BEGIN}{fingerprint.END}after\n")
    page.with_suffix(".csv").write_text(",".join(fingerprint._columns()) + "\n")
    old, other, new = (
        Row(p, "portable", "full", "2.13.0", "2.4.6", h, h, h) for p, h in (("a", "1"), ("b, c", "1"), ("a", "2"))
    )
    for row in (old, other, new):
        fingerprint.extend(page, row)
    assert fingerprint.read(page.with_suffix(".csv")) == [new, other]
    before, table, after = page.read_text().partition(fingerprint.markdown([new, other]))
    assert (before, after) == (f"before\n{fingerprint.BEGIN}", f"{fingerprint.END}after\n")
    assert table
