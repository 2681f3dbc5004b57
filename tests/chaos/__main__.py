"""`python -m tests.chaos --kills 300 --updates 50 --outages 20 --seed 7`, from the root of the repository."""

from __future__ import annotations

import argparse
import random
import sys

from .harness import run
from .scale import KILLS, OUTAGES, UPDATES

parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill a real server under load.")
parser.add_argument("--kills", type=int, default=KILLS)
parser.add_argument("--updates", type=int, default=UPDATES, help="changes of settings")
parser.add_argument("--outages", type=int, default=OUTAGES, help="of the S3 server")
parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
parser.add_argument("--executors", type=int, default=2)
given = parser.parse_args()

print(f"seed {given.seed}", flush=True)
report = run(given.seed, given.kills, given.updates, given.outages, given.executors)
print(report)
sys.exit(1 if report.violations else 0)
