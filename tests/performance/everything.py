"""Every benchmark at its full size, one after another, then METRICS.md: python -m tests.performance.everything

Made to run unattended on a quiet machine. A benchmark that fails does not keep the others from running; its name and
exit code 1 are what is left of it, with its words above.
"""

import subprocess
import sys
import time

from tests.performance.record import console
from tests.pipeline import ROOT

BENCHES = ("steps", "drain", "profile", "scale", "contents", "freshness", "backlog", "capture", "recovery", "api")
LONGEST_S = 900


def main() -> None:
    """Run them; 1 where one failed."""
    failed = []
    for name in BENCHES:
        console.rule(f"bench-{name}")
        began = time.monotonic()
        with subprocess.Popen([sys.executable, "-m", f"tests.performance.bench_{name}"], cwd=ROOT) as bench:
            try:
                bench.wait(LONGEST_S)
            except subprocess.TimeoutExpired:
                bench.terminate()  # it ends what it has started
        if bench.returncode != 0:
            failed.append(name)
        console.print(f"bench-{name}: {time.monotonic() - began:.0f} s")
    subprocess.run([sys.executable, "-m", "tests.performance.report"], cwd=ROOT, check=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
