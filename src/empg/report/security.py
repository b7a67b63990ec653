"""What a page of the report may run and load: its own scripts, named by their hashes, and nothing else."""

from __future__ import annotations

import base64
import hashlib


def content_policy(*scripts: str) -> str:
    """The content security policy for a page with these inline scripts, each the whole text between its tags.

    It stands in ``<meta http-equiv="Content-Security-Policy">`` before anything else of the page. No script of the data
    runs, even if one got past the escaping; nothing is fetched; no form is sent.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
