"""The memory that a study says it needs: enough, not twice too much, and refused where there is less."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from empg.config import Decisiveness, Gradients, Study, parse
from empg.errors import ConfigError
from empg.pipeline import needs
from empg.pipeline.job_files import read_study
from empg.pipeline.needs import MB, Need, Needs, check, side_by_side
from empg.policy import memory

ROOT = Path(__file__).parents[2]
GB = 10**9
JOBS = [
    Need("train (a)", 1, 4 * GB),
    Need("evaluate (a)", 1, 3 * GB),
    Need("evaluate (b)", 1, 2 * GB),
    Need("report", 1, 6 * GB),
    Need("rollouts (c)", 1, None),
]


def measured() -> list[tuple[str, str, list[int], int]]:
    """Rule, environment, peaks and estimate in MB, from the table of the default study."""
    page = (ROOT / "docs/running-on-gpus.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w*) *\| ([\d, ]+) \| ([\d,]+) \|$", page, flags=re.MULTILINE)
    return [(rule, name, [int(peak) for peak in peaks.split(", ")], int(size)) for rule, name, peaks, size in rows]


def default_study() -> Needs:
    return Needs(*read_study(ROOT / "config", None))


def test_the_table_has_every_job_of_the_default_study():
    assert len(measured()) == 3 * 6 + 3


@pytest.mark.parametrize(("rule", "environment", "peaks", "written"), measured())
def test_an_estimate_is_enough_and_at_most_twice_the_measured_peak(rule, environment, peaks, written):
    estimate = default_study().megabytes(rule, environment or None, unknown=0)
    assert max(peaks) <= estimate <= 2 * min(peaks)
    assert estimate == written


def study(**changes) -> Needs:
    """A study of one environment whose settings are changed."""
    value = {"methods": {"grpo": {"advantage": "grpo"}}, "seeds": [1], "environments": {"alfworld": changes}}
    _, data = read_study(ROOT / "config", None)
    return Needs(parse(Study, value, "test"), data)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("warmstart", {"warmstart": {"batch_tokens": 16384}}),
        ("warmstart", {"policy": {"type": "tiny", "layers": 6}}),
        ("train", {"train": {"micro_batch_tokens": 16384}}),
        ("train", {"train": {"groups": 64}}),
        ("rollouts", {"rollouts": {"tasks": 100}, "sampling": {"rows": 512}}),
        ("evaluate", {"evaluate": {"episodes": 4}}),
        ("evaluate", {"sampling": {"max_context": 2048}, "policy": {"type": "tiny", "max_positions": 2048}}),
    ],
)
def test_larger_settings_need_more(rule, changes):
    assert study(**changes).of(rule, "alfworld") > 1.05 * study().of(rule, "alfworld")


def test_a_rule_without_an_estimate_stops_nothing():
    found = default_study()
    assert found.of("own_rule", "alfworld") is None
    assert found.of("own_rule") is None
    assert check([Need("own_rule (alfworld)", 1, None)], 2).endswith("jobs that are not estimated: 1")


@pytest.mark.parametrize(
    ("environment", "steps", "peaks"),
    [("alfworld", 300, (738, 690)), ("webshop", 150, (1136, 1094)), ("deepsearch", 233, (631, 588))],
)
def test_decisiveness_is_estimated_by_its_branches(environment, steps, peaks):
    """Peaks in MB of the warm start and of the trained policy, whose measurements docs/decisiveness.md shows."""
    found = default_study()
    with_section = found.study.model_copy(update={"decisiveness": Decisiveness(steps=steps)})
    for rule in ("decisiveness", "decisiveness_warmstart"):
        assert max(peaks) <= Needs(with_section, found.data).megabytes(rule, environment, unknown=0) <= 2 * min(peaks)
    assert 492 <= found.megabytes("decisiveness_report", unknown=0) <= 2 * 492


def test_estimates_of_the_gradient_are_kept():
    """One for each batch and method, with the unbiased one, and the reference: float32 numbers."""
    found = default_study()
    gradients = Gradients(batches=10, episodes=640)
    sizes = [
        Needs(found.study.model_copy(update={"decisiveness": measured}), found.data).of("decisiveness", "alfworld")
        for measured in (Decisiveness(), Decisiveness(gradients=gradients))
    ]
    parameters = needs._sizes(found.study.environments["alfworld"].policy).parameters
    assert sizes[1] - sizes[0] == pytest.approx(needs.MARGIN * 4 * parameters * (10 + 10 * 3), abs=2)


def test_more_runs_make_a_larger_report():
    needs = default_study()
    more = needs.study.model_copy(update={"seeds": tuple(range(5))})
    assert Needs(more, needs.data).of("report") > 1.5 * needs.of("report")


def test_a_pretrained_policy_is_estimated_from_its_folder(tmp_path, monkeypatch):
    found = study(policy={"type": "pretrained", "model": str(tmp_path / "model")})
    assert found.of("train", "alfworld") is None
    assert found.megabytes("train", "alfworld", unknown=4000) == 4000
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    sizes = memory.Sizes(10**8, 10**7, 50_000, 512, 12, 8, 8, 64, 2048)
    monkeypatch.setattr(memory.Sizes, "of", lambda folder: sizes)
    weights, adam = 2 * 10**8, (10**8 - 10**7) * 18  # bfloat16; gradient twice, two moments, a float32 copy
    assert found.of("train", "alfworld") > needs.PROCESS + weights + adam
    assert found.of("rollouts", "alfworld") > needs.PROCESS + weights
    several = {
        "engine": "trl",
        "train": {"optimiser": {"muon_lr": 0}},
        "policy": {"type": "pretrained", "model": str(tmp_path / "model")},
    }
    for rule, times in (("warmstart", 2), ("rollouts", 2), ("train", 2), ("evaluate", 1)):
        of = {n: study(**several, processes=n).of(rule, "alfworld") for n in (1, 2)}
        assert of[2] == pytest.approx(times * of[1])  # on one machine


def test_the_jobs_that_need_most_count_together():
    assert side_by_side(JOBS, 1) == [JOBS[3]]
    assert side_by_side(JOBS, 2) == JOBS[:2]
    assert side_by_side(JOBS, 9) == JOBS[:3]  # the report waits for all others
    assert side_by_side([JOBS[0]._replace(threads=2), *JOBS[1:]], 2) == [JOBS[3]]
    assert side_by_side([JOBS[0]._replace(threads=8)], 2) == [JOBS[0]._replace(threads=8)]
    assert side_by_side([JOBS[-1]], 2) == []


def test_what_fits_is_said(monkeypatch):
    monkeypatch.setattr(memory, "machine", lambda: (8 * GB, "this machine"))
    assert check(JOBS, 2) == (
        "Memory: at most about 7.0 GB for 2 jobs side by side, the largest job 6.0 GB (report), of 8.0 GB; "
        "jobs that are not estimated: 1"
    )


@pytest.mark.parametrize(
    ("there", "limit", "message"),
    [
        (5, None, r"fit into the 5.0 GB of this control group, found report, which needs about 6.0 GB"),
        (5, 5, r"fit into the 5.0 GB of this control group, found report"),
        (
            6.5,
            None,
            r"about 7.0 GB for 2 jobs side by side \(train \(a\) 4.0 GB, evaluate \(a\) 3.0 GB\); use fewer --cores",
        ),
        (6.5, 7, r"--resources mem_mb=6500"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(monkeypatch, there, limit, message):
    monkeypatch.setattr(memory, "machine", lambda: (int(there * GB), "this control group"))
    with pytest.raises(ConfigError, match=message):
        check(JOBS, 2, limit and limit * GB)


def test_a_limit_that_snakemake_keeps_to_lets_jobs_wait(monkeypatch):
    monkeypatch.setattr(memory, "machine", lambda: (int(6.5 * GB), "this machine"))
    assert "at most about 6.0 GB for jobs side by side that wait for mem_mb" in check(JOBS, 2, 6 * GB)
    assert "at most about 6.0 GB" in check(JOBS, 2, 3 * GB)  # a job that needs more runs alone


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": "5000\n"}, 5000),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, None),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": "7000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 7000),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": "7000\n", "sys/fs/cgroup/a/b/memory.max": "6000\n"}, 6000),
        ("4:cpu,memory:/j\n", {"sys/fs/cgroup/memory/j/memory.limit_in_bytes": "9000\n"}, 9000),
        ("4:cpu,memory:/j\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ("3:cpu:/j\n", {}, None),
        (None, {}, None),
    ],
)
def test_a_control_groups_limit_counts(tmp_path, groups, files, limit):
    for name, text in files.items() if groups is None else [("proc/self/cgroup", groups), *files.items()]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    expected = (physical, "this machine") if limit is None else (limit, "this control group")
    assert memory.machine(tmp_path) == expected


def test_an_estimate_is_requested_in_whole_megabytes():
    found = default_study()
    size = found.of("train", "alfworld")
    assert size is not None
    assert 0 <= found.megabytes("train", "alfworld", unknown=0) * MB - size < MB
