"""How long `medmamba demo` takes, and what comes of it, on an idle machine and on a busy one.

    python benchmarks/demo.py --idle 2 --busy 3

Each run starts in a fresh folder. Beside the busy ones a process per core does nothing but count. The Dice has to be
the same in every row: what the demo does must not depend on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import machine

from medmamba.evaluation.statistics import MEAN_OVER_LABELS


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def demo(arguments: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of a demonstration in a fresh folder, and its Dice by structure."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command = [sys.executable, "-P", "-m", "medmamba.cli.main", "demo", "--output", folder, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        report = json.loads((Path(folder) / "predictions" / "report.json").read_text())
    return seconds, {entry["label"]: entry["mean"] for entry in report["summary"] if entry["metric"] == "dice"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=2, help="runs on the machine as it is")
    parser.add_argument("--busy", type=int, default=3, help="runs beside busy loops")
    parser.add_argument("--loops", type=int, default=os.cpu_count(), help="busy loops")
    parser.add_argument("demo", nargs="*", help="options of the demo, after --")
    wanted = parser.parse_args()
    print(f"{machine()}\n\n| run | beside | seconds | Dice | by structure |\n|---|---|---|---|---|", flush=True)
    means = []
    for number in range(wanted.idle + wanted.busy):
        loops = 0 if number < wanted.idle else wanted.loops
        with busy(loops):
            seconds, dice = demo(wanted.demo)
        means.append(dice.pop(MEAN_OVER_LABELS))
        parts = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        print(f"| {number + 1} | {loops} busy loops | {seconds:.0f} | {means[-1]:.4f} | {parts} |", flush=True)
    print(f"\nlargest difference in Dice between runs: {max(means) - min(means):.6f}")


if __name__ == "__main__":
    main()
