"""HTML pages as MLflow shows them: in a sandboxed frame, where links to a section do nothing without help.

The frame's address is a blob's, which a link cannot name, so a script scrolls to the section instead. Links to other
files lead nowhere in the frame; they become text that says where they work.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from empg.report.security import script_source

SCRIPT = """
for (const link of document.querySelectorAll("a[href]")) {
  const address = link.getAttribute("href");
  if (address.startsWith("#")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const place = document.getElementById(decodeURIComponent(address.slice(1)));
      for (let box = place; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
      (place || document.body).scrollIntoView();
    });
  } else if (!/^[a-z]+:/.test(address)) {
    link.title = address + " (open the page in the results folder to follow links to other files)";
    link.removeAttribute("href");
  }
}
"""


def embedded(page: str) -> str:
    """The page with the script at its end. A content security policy of the page lets it run, and nothing more."""
    page = re.sub(
        r"""(<meta http-equiv="?Content-Security-Policy"? content=")([^"]*)(")""",
        lambda found: found[1] + html.escape(_allow(html.unescape(found[2]), script_source(SCRIPT))) + found[3],
        page,
        count=1,
        flags=re.IGNORECASE,
    )
    head, end, tail = page.rpartition("</body>")
    script = f"<script>{SCRIPT}</script>"
    return f"{head}{script}{end}{tail}" if end else f"{page}{script}"


def write_embedded(page: Path, folder: Path) -> Path:
    """Write the page for MLflow into ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / page.name
    target.write_text(embedded(page.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def _allow(policy: str, source: str) -> str:
    """The policy with one more source of scripts."""
    parts = [part.strip() for part in policy.split(";") if part.strip()]
    for place, part in enumerate(parts):
        name, *sources = part.split()
        if name == "script-src":
            parts[place] = " ".join([name, *(known for known in sources if known != "'none'"), source])
            return "; ".join(parts)
    return "; ".join([*parts, f"script-src {source}"])
