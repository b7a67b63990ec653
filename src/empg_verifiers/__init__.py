"""The environments for verifiers, under a name that its commands can import: ``vf-eval empg-verifiers``."""

from empg.integrations.verifiers import EpisodeEnv, EpisodeHarness, EpisodeTaskset

__all__ = ["EpisodeEnv", "EpisodeHarness", "EpisodeTaskset"]
