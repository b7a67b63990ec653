"""``from empg import modulate`` costs torch and nothing else."""

import json
import subprocess
import sys

import pytest

HEAVY = ("transformers", "tokenizers", "polars", "mlflow", "snakemake", "dvc", "pydantic", "scipy", "altair")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_modulate_pulls_in_torch_and_nothing_else_heavy():
    loaded = modules_after("from empg import modulate, Modulation")
    assert "torch" in loaded
    assert not loaded & set(HEAVY)
    ours = {name for name in loaded if name.startswith("empg.")}
    assert {name.split(".")[1] for name in ours} == {"core"}


def test_importing_the_package_alone_is_free():
    assert "torch" not in modules_after("import empg")


def test_unknown_attribute_is_an_attribute_error():
    import empg

    with pytest.raises(AttributeError, match="no attribute 'modulat'"):
        _ = empg.modulat
