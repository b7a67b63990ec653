"""Deep Search: multi-hop questions over a corpus, see ``docs/deepsearch.md``. Imports no other environment."""
