"""What MLflow's page makes of our pages, views and addresses, in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from empg.report import page
from empg.tracking.database import connect
from empg.tracking.embedded import embedded
from empg.tracking.rebuild import rebuild

from .conftest import TIMEOUT

REPORTER = "addEventListener('scroll', () => parent.postMessage(scrollY, '*'))"
DIGEST = base64.b64encode(hashlib.sha256(REPORTER.encode()).digest()).decode()
PAGE = f"""<!doctype html><html><head><title>report</title>
<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; script-src &#39;sha256-{DIGEST}&#39;">
</head><body><h1><a href="#far">to the section</a></h1><a href="tables/a.csv">a</a>
<svg width="1" height="3000"></svg><h2 id="far">far</h2><svg width="1" height="3000"></svg>
<script>{REPORTER}</script></body></html>"""
# As MLflow shows a page: from a blob, in a frame that may run scripts and nothing else.
FRAME = """<!doctype html><title>0</title><link rel="icon" href="data:,">
<iframe sandbox="allow-scripts" style="position:fixed;inset:0;width:100%;height:100%;border:0"></iframe>
<script>
onmessage = (event) => { document.title = event.data };
document.querySelector("iframe").src = URL.createObjectURL(new Blob([CONTENT], { type: "text/html" }));
</script>"""


def press(tab: Any, x: int, y: int) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        tab._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a server of ``tmp_path``: the blob of a page without a host opens in no frame."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_links_to_sections_work_in_mlflows_frame(tab: Any, site: str, tmp_path: Path) -> None:
    (tmp_path / "host.html").write_text(FRAME.replace("CONTENT", json.dumps(embedded(PAGE)).replace("</", "<\\/")))
    tab._call("Page.navigate", url=f"{site}/host.html")
    end = time.monotonic() + 30
    while tab.value("document.title") in ("", "0") and time.monotonic() < end:  # until the frame is loaded
        press(tab, 40, 40)
        time.sleep(0.1)
    assert float(tab.value("document.title")) > 2000
    assert tab.console == []


@pytest.fixture
def served(study_results: Path, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """MLflow's server over a study: its address, what ``empg ui`` prints of the study, the report's link."""
    study = tmp_path / "results" / "made_up"
    shutil.copytree(study_results, study)
    page.run(study / "config" / "study.json", study, study / "report")
    rebuild(study)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "empg", "ui", "--results", str(study.parent), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert "is starting" in server.stdout.readline()
        name, _, address = server.stdout.readline().strip().partition(": ")
        assert name == "made_up"
        (experiment,) = [found for found in connect(study.parent).search_experiments() if found.name == name]
        links = dict(re.findall(r"\[([^]]+)\]\(([^)]+)\)", experiment.tags["mlflow.note.content"]))
        yield f"http://127.0.0.1:{port}/", address, links["report"]
        server.terminate()


@pytest.mark.longer
def test_from_a_number_to_its_evaluation_episode(tab: Any, served: tuple[str, str, str]) -> None:
    """Four clicks lead from a number of the table to what was said; the description's link opens the report."""
    root, address, report = served
    body = "document.body.innerText"

    def there(text: str) -> bool:
        return bool(tab.value(f"{body}.includes({json.dumps(text)})"))

    def click(elements: str, text: str, then: str) -> None:
        """Click on the last of these with the text, until another text is there: MLflow draws anew while it loads."""
        found = f"[...document.querySelectorAll({json.dumps(elements)})]"
        found += f".filter((e) => e.innerText?.includes({json.dumps(text)})).at(-1)"
        end = time.monotonic() + TIMEOUT
        while not there(then):
            assert time.monotonic() < end, f"{text}: no click on it leads to {then!r}"
            if tab.value(f"(() => {{ const e = {found}; e?.setAttribute('data-next', 1); return !!e; }})()"):
                with suppress(AssertionError, RuntimeError):  # it was covered, or is gone
                    tab.click("[data-next]")
            tab.value("document.querySelector('[data-next]')?.removeAttribute('data-next')")
            time.sleep(0.5)

    tab._call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
    tab._call("Page.navigate", url=address)
    for text in ("Trained policies", "valid_seen", "valid_unseen", "alfworld-grpo-seed1", "alfworld-grpo_empg-seed2"):
        tab.wait_until(f"document.body && {body}.includes({json.dumps(text)})")
    assert not there("alfworld-warmstart")
    click("a", "alfworld-grpo-seed1", then="System metrics")
    click("[role=tab]", "Traces", then="valid_seen sampled task")
    click("a", "valid_seen sampled task", then="0: look")
    click("span", "0: look", then="You see a mug")
    tab._call("Page.navigate", url=root + report)
    tab.wait_until("!!document.querySelector('iframe')")
