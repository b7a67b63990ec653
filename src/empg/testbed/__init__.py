"""The testbed: every method against the exact policy gradient of a small world (docs/testbed.md)."""
