"""What py-spy saw, by line."""

from collections import Counter
from pathlib import Path

from tests.performance.record import table

SHOWN = 20
MAIN_THREAD = "_run_module_as_main"  # its outermost frame


def hottest(path: Path, name: str) -> list[tuple[str, float]]:
    """The lines in which the main thread's time went, as shares of it; prints them.

    path  folded stacks: frames from the outermost, `;` between, a blank, the number of samples
    """
    leaves: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if not frames[0].startswith(MAIN_THREAD):
            continue  # the others wait, most of the time
        leaves[frames[-1]] += int(samples)
        for frame in {frame.rpartition(":")[0] for frame in frames}:
            functions[frame] += int(samples)
    total = leaves.total()
    assert total, f"{path} holds no sample of the main thread"
    shares = [(frame, count / total) for frame, count in leaves.most_common(SHOWN)]
    table(f"{name}: where the time went, by line", ["line", "share"], [[at, f"{part:.1%}"] for at, part in shares])
    within = [(frame, count / total) for frame, count in functions.most_common(2 * SHOWN) if count < 0.95 * total]
    table(f"{name}: and below each function", ["function", "share"], [[at, f"{part:.1%}"] for at, part in within])
    return shares
