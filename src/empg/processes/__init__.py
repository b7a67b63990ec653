"""Stages of ``engine: trl`` in several processes: how they are started, what they tell each other, how they end."""
