"""Trajectories survive the table and the disk to the bit; a table of another shape is refused with its column."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from empg.environments.base import Task
from empg.errors import DataError
from empg.rollouts.episodes import Episode, Step, StopReason, Trajectory
from empg.rollouts.table import from_table, to_table
from empg.schema import CREDITED_STEPS, STEPS, read_table, write_table


def step(number: int, action: str | None = "look", truncated: bool = False) -> Step:
    random = np.random.default_rng(number)
    n = 1 + number % 4
    return Step(
        observation=f"You see a mug {number}.\n“ß”",
        prompt_ids=random.integers(0, 1000, 3 + number).astype(np.int32),
        response_ids=random.integers(0, 1000, n).astype(np.int32),
        logprobs=-random.random(n, dtype=np.float32),
        entropies=random.random(n, dtype=np.float32) * np.float32(1e-30),
        text=f"<action>look {number}</action>",
        action=action,
        invalid=number % 2 == 0,
        truncated=truncated,
    )


@pytest.fixture
def trajectories():
    task, other = Task("alfworld", "train", 7, "look_at_obj_in_light"), Task("alfworld", "tune", 2**40, "x")
    return [
        Trajectory(Episode(task, 0, 0, 2**63 - 1), [step(0), step(1)], 1.0, StopReason.SUCCESS),
        Trajectory(Episode(task, 0, 1, 5), [step(2, None, True)], 0.0, StopReason.CONTEXT_LIMIT),
        Trajectory(Episode(other, 1, 2, 6), [step(3), step(4, ""), step(5)], 0.0, StopReason.STEP_LIMIT),
    ]


def assert_same(found: list[Trajectory], expected: list[Trajectory]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.episode, a.reward, a.stop_reason) == (b.episode, b.reward, b.stop_reason)
        assert len(a.steps) == len(b.steps)
        for one, other in zip(a.steps, b.steps, strict=True):
            for name in Step.__slots__:
                x, y = getattr(one, name), getattr(other, name)
                if isinstance(y, np.ndarray):
                    assert x.dtype == y.dtype
                    assert x.tobytes() == y.tobytes(), name
                else:
                    assert x == y, name


def test_a_table_gives_the_trajectories_back(trajectories, tmp_path):
    table = to_table(trajectories, iteration=4, policy_version=9)
    assert_same(from_table(table, "alfworld"), trajectories)
    write_table(table, STEPS, tmp_path / "a.parquet")
    again = read_table(tmp_path / "a.parquet", STEPS)
    assert again.equals(table, null_equal=True)
    assert_same(from_table(again, "alfworld"), trajectories)


def test_a_row_is_a_step(trajectories):
    table = to_table(trajectories, iteration=4, policy_version=9)
    assert table.schema == pl.Schema(STEPS)
    assert table["step"].to_list() == [0, 1, 0, 0, 1, 2]
    assert table["trajectory"].to_list() == [0, 0, 1, 2, 2, 2]
    assert table["reward"].to_list() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert set(table["iteration"]) == {4}
    assert set(table["policy_version"]) == {9}
    assert table["action"].to_list() == ["look", "look", None, "look", "", "look"]
    assert table["seed"][0] == 2**63 - 1


def test_no_trajectories_are_an_empty_table():
    table = to_table([], iteration=0, policy_version=0)
    assert table.schema == pl.Schema(STEPS)
    assert from_table(table, "alfworld") == []


def test_the_same_table_is_the_same_bytes(trajectories, tmp_path):
    for name in ("a", "b"):
        write_table(to_table(trajectories, iteration=0, policy_version=0), STEPS, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("seed"), "column seed: expected Int64, found none"),
        (lambda t: t.with_columns(reward=pl.lit(1.0)), "column reward: expected Float32, found Float64"),
        (lambda t: t.with_columns(oops=pl.lit(1)), "expected columns iteration, group"),
        (lambda t: t.cast({"logprobs": pl.List(pl.Float64)}), "column logprobs: expected List(Float32)"),
    ],
)
def test_a_table_of_another_schema_is_refused_on_both_sides(trajectories, change, message, tmp_path):
    path, table = tmp_path / "a.parquet", change(to_table(trajectories, iteration=0, policy_version=0))
    with pytest.raises(DataError) as error:
        write_table(table, STEPS, path)
    assert not list(tmp_path.iterdir())
    assert message in str(error.value)
    table.write_parquet(path)
    with pytest.raises(DataError) as error:
        read_table(path, STEPS)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text"])
def test_a_damaged_file_is_named(trajectories, damage, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(to_table(trajectories, iteration=0, policy_version=0), STEPS, path)
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("group,reward\n")
    with pytest.raises(DataError) as error:
        read_table(path, STEPS)
    assert str(error.value).startswith(f"{path}: expected a")
    assert "found" in str(error.value)


def test_a_table_with_damage_inside_is_named(trajectories, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(to_table(trajectories * 50, iteration=0, policy_version=0), STEPS, path)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_table(path, STEPS)
    assert str(error.value).startswith(f"{path}: expected a whole Parquet file, found")


def test_credited_steps_add_columns_to_steps():
    assert list(CREDITED_STEPS)[: len(STEPS)] == list(STEPS)


@pytest.mark.parametrize("row", [0, 1])
def test_a_duplicated_row_is_refused(trajectories, row):
    table = to_table(trajectories, iteration=0, policy_version=0)
    with pytest.raises(DataError, match="expected step"):
        from_table(pl.concat([table[: row + 1], table[row:]]), "alfworld")
