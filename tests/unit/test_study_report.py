import shutil
from pathlib import Path

from empg.study import report


def test_page(study_results: Path, tmp_path: Path) -> None:
    root = tmp_path / "results" / "made_up"
    shutil.copytree(study_results, root)
    report.run(root / "config" / "study.json", root, root / "report")
