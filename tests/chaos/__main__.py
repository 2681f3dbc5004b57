"""`python -m tests.chaos --kills 300 --seed 7`, from the root of the repository."""

from __future__ import annotations

import argparse
import random
import sys

from .harness import run

parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill a real server under load.")
parser.add_argument("--kills", type=int, default=50)
parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
parser.add_argument("--executors", type=int, default=2)
given = parser.parse_args()

print(f"seed {given.seed}", flush=True)
report = run(given.seed, given.kills, given.executors)
print(report)
sys.exit(1 if report.violations else 0)
