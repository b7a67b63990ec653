"""What a page of the report may run and load: its own scripts, named by their hashes, and nothing else."""

from __future__ import annotations

import base64
import hashlib


def script_source(script: str) -> str:
    """An inline script as a source of the policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def content_policy(*scripts: str) -> str:
    """The content security policy for a page with these inline scripts, each the whole text between its tags.

    It stands in ``<meta http-equiv="Content-Security-Policy">`` before anything else of the page. No script of the data
    runs, even if one got past the escaping; nothing is fetched; no form is sent.
    """
    allowed = " ".join(map(script_source, scripts)) or "'none'"
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
