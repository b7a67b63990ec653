"""Deep Search: multi-hop questions answered by searching a corpus. See ``docs/deepsearch.md``."""
