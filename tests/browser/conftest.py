"""A real Chromium, driven over the DevTools protocol by a pipe: pages, clicks, the console, pictures.

``tab`` opens pages from files, without a server and without a network. On a machine without Chromium its tests are
skipped; ``make test-browser`` refuses to.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 180  # seconds for anything that the browser is asked


class Chromium:
    """A headless Chromium. Messages of the protocol end with a zero byte; it reads them from fd 3 and writes to 4."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._to_browser = os.pipe()
        self._from_browser, answers = os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        start = f'exec "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", start, "chromium", program, *options],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        os.set_blocking(self._from_browser, False)
        self._number, self._unread = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol. Raises RuntimeError with the browser's message if it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to_browser, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._read(method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, event: str, session: str) -> dict[str, Any]:
        """The next event of this name, which may have arrived already; it counts once."""
        while True:
            for place, found in enumerate(self.events):
                if found["method"] == event and found.get("sessionId") == session:
                    return dict(self.events.pop(place)["params"])
            self.events.append(self._read(event))

    def _read(self, awaited: str) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._unread:
            try:
                part = os.read(self._from_browser, 1 << 20)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{awaited}: Chromium gave no answer in {TIMEOUT} seconds") from None
                time.sleep(0.002)
                continue
            if not part:
                raise RuntimeError(f"{awaited}: Chromium ended, with exit code {self._process.wait()}")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._process.wait(TIMEOUT)
        os.close(self._to_browser)
        os.close(self._from_browser)


class Tab:
    """One page of the browser."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._target = chromium.call("Target.createTarget", url="about:blank")["targetId"]
        attached = chromium.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._chromium.call(method, self._session, **parameters)

    def open(self, page: Path, anchor: str = "", *, width: int = 1000, height: int = 900, dark: bool = False) -> None:
        """Open a file, with scripts and styles as a person's browser would run them, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[theme])
        self._chromium.events.clear()
        self._call("Page.navigate", url="about:blank")  # so that another anchor of the same page loads it anew
        self._chromium.wait_for("Page.loadEventFired", self._session)
        self._call("Page.navigate", url=page.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
        self._chromium.wait_for("Page.loadEventFired", self._session)

    def script(self, on: bool) -> None:
        """Whether pages opened from now on may run scripts of their own."""
        self._call("Emulation.setScriptExecutionDisabled", value=not on)

    def value(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression in the page; a promise's when it is fulfilled.

        The page's content security policy does not bind it.
        """
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception']['description']}")
        return answer["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: not true after {TIMEOUT} seconds")
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click where a person would: the middle of the first element that the selector finds, once it is in view.

        Waits for the new page if the element is a link to one. Raises AssertionError if something else lies there.
        """
        found = f"document.querySelector({json.dumps(selector)})"
        x, y, hit, away = self.value(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}});"
            " const b = e.getClientRects()[0], x = b.x + b.width / 2, y = b.y + b.height / 2;"
            " const top = document.elementFromPoint(x, y), link = e.closest('a[href]');"
            " const page = (url) => url.split('#')[0];"
            " return [x, y, e === top || e.contains(top), !!link && page(link.href) !== page(location.href)]; })()"
        )
        assert hit, f"{selector}: something else lies above it"
        self._chromium.events = [e for e in self._chromium.events if e.get("method") != "Page.loadEventFired"]
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        if away:
            self._chromium.wait_for("Page.loadEventFired", self._session)

    @property
    def console(self) -> list[str]:
        """What the page complained of since it was opened: errors, warnings, refused scripts, uncaught exceptions."""
        self.value("0")  # events that belong to what was done before have arrived when this is answered
        said = []
        for event in self._chromium.events:
            about = event.get("params", {})
            if event.get("method") == "Log.entryAdded":
                said.append(str(about["entry"]["text"]))
            elif event.get("method") == "Runtime.exceptionThrown":
                details = about["exceptionDetails"]
                said.append(str(details.get("exception", {}).get("description", details["text"])))
            elif event.get("method") == "Runtime.consoleAPICalled":
                said.append(" ".join(str(argument.get("value")) for argument in about["args"]))
        return said

    @property
    def requests(self) -> list[str]:
        """Every address that the page asked for since it was opened, itself included."""
        self.value("0")
        sent = [e["params"] for e in self._chromium.events if e.get("method") == "Network.requestWillBeSent"]
        return [str(parameters["request"]["url"]) for parameters in sent]

    @property
    def first_paint(self) -> float:
        """Milliseconds from the start of the navigation to the first contentful paint."""
        paint = "performance.getEntriesByName('first-contentful-paint')"
        self.wait_until(f"{paint}.length > 0")
        return float(self.value(f"{paint}[0].startTime"))

    @property
    def thread_seconds(self) -> float:
        """CPU seconds of the page's main thread until now: what a load costs, however busy the machine is."""
        metrics = self._call("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime"))

    def picture(self, place: Path) -> None:
        """Save a picture of what the window shows as PNG."""
        place.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close the page."""
        self._chromium.call("Target.closeTarget", targetId=self._target)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser, started once."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("EMPG_BROWSER") == "required":
            pytest.fail("no chromium on this machine")
        pytest.skip("no chromium on this machine")
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    """A new page of the browser: ``tab.open(file, width=400, dark=True)``, ``tab.click("a")``, ``tab.console``."""
    page = Tab(chromium)
    yield page
    page.close()
