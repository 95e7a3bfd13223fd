"""``python -m tests.fuzz dns_packets 60 [SEED]``: run one target for some seconds."""

import sys
from importlib import import_module

from tests.fuzz import mutation

name, seconds = [*sys.argv[1:], "60"][:2]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
target = import_module(f"tests.fuzz.{name}")
count = mutation.run(target.run, target.SEEDS, seconds=float(seconds), seed=seed)
print(f"{name}: {count} inputs in {float(seconds):g} s, seed {seed}: nothing found")
