"""Randomness, as a port: a `random.Random`, from the operating system or from a seed."""

from __future__ import annotations

import random

Rng = random.Random


def system_rng() -> Rng:
    """Randomness fit for secrets: every bit comes from the operating system's generator."""
    return random.SystemRandom()


def seeded_rng(seed: int | str) -> Rng:
    """A reproducible sequence: the same seed gives the same numbers on every machine."""
    return random.Random(seed)
