"""Train every segmentation network for as long on the same data, with the commands that a user would type.

For each network of the registry, slices and volumes, and each a second time with ``--mixer none``, which leaves out
what Mamba is: ``medmamba plan``, ``train``, ``predict --validation`` and ``evaluate`` on fold 0. Prints a table in
Markdown.

    python benchmarks/segmentation_networks.py Task04_Hippocampus --minutes 3 --work networks-work

Rows that are finished are kept in ``rows.json`` in the work folder, and a training that was cut off goes on: repeat
the command. A few minutes show what a laptop shows in a few minutes, not what converged networks can do; and one run of
each says nothing about seeds. What mixer "none" leaves of umamba_bot and of umamba_enc is the same residual U-Net: how
far these rows lie apart is what chance does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from machine import machine

#: Wherever this Python's scripts are, the command need not be on the path.
COMMAND = (sys.executable, "-P", "-m", "medmamba.cli.main")
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
PUBLISHED, NONE = "as published", "none"

NOTE = (
    "Dice is the mean over the validation cases of fold 0; in brackets the 95 % interval over these cases. Steps are "
    "given with the patches of each, as many as the time allows. Time per step is the median, without validation; with "
    "'<' training was so short that a validation followed every step, and is counted. "
    "Memory is the most that training had resident. Prediction was without mirroring. Video networks (vivim) are not "
    "in the table: there is no planner for clips yet."
)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one network.

    Args:
        configuration: slices or volumes.
        network: its name.
        mixer: `PUBLISHED` or `NONE`.
        weights: parameters.
        steps: of training.
        batch: patches of a step.
        step_s: median time of a step in seconds; None with too few steps.
        validation_in_step: whether that includes a validation.
        memory_gb: largest resident memory of the training process, in 10^9 bytes.
        dice: mean of each label over the validation cases.
        interval: 95 % of the mean over all labels; None with too few cases.
    """

    configuration: str
    network: str
    mixer: str
    weights: int
    steps: int
    batch: int
    step_s: float | None
    memory_gb: float
    dice: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    validation_in_step: bool = False


class CommandError(RuntimeError):
    """A command failed; its last words."""


def run(*arguments: str | Path, log: Path) -> tuple[str, int]:
    """Standard output of a medmamba command, and the largest resident memory of it or a child of it in bytes."""
    with log.open("a") as errors:
        print("$ medmamba", *arguments, file=errors, flush=True)
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            text = process.stdout.read()
        except KeyboardInterrupt:
            process.wait()  # it was interrupted, too, and saves what it has
            raise SystemExit("stopped; the same command goes on") from None
        # wait4 rather than getrusage: the latter knows only the largest of all children so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.write(text)
    if process.returncode:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        raise CommandError(f"medmamba {arguments[0]} exited with {process.returncode}: {lines[-1]} (all of it: {log})")
    return text, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(entry: dict[str, Any], configuration: str, mixer: str, options: argparse.Namespace) -> Row:
    """Plan, train, predict and evaluate one network."""
    # Plans of the same network with another mixer have the same path: each mixer has a work folder of its own.
    work = options.work / folder_name(mixer)
    name = entry["name"]
    log = options.work / "logs" / f"{configuration}-{name}-{folder_name(mixer)}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    chosen = () if mixer == PUBLISHED else ("--mixer", mixer)
    planned = json.loads(
        run(
            *("plan", options.dataset, "--network", name, "--configuration", configuration, *chosen),
            *("--work", work, "--force", "--json"),
            log=log,
        )[0]
    )["plans"][0]
    schedule = ("--steps", str(options.steps)) if options.steps else ("--budget", f"{60 * options.minutes:g}s")
    _, memory = run("train", planned["plan"], "--fold", "0", *schedule, log=log)
    # An earlier call may have trained, and this one had nothing left to do or only the rest.
    peak = log.with_suffix(".peak")
    memory = max(memory, int(peak.read_text()) if peak.is_file() else 0)
    peak.write_text(str(memory))
    fold = Path(planned["plan"]).parent / "fold_0"
    predictions = fold / "predictions"
    run("predict", "--model", fold, "--validation", "--no-mirror", "--output", predictions, log=log)
    scores = run("evaluate", predictions, options.dataset, "--metric", "dice", "--json", log=log)
    return summarise(configuration, name, mixer, planned["weights"], memory, fold, json.loads(scores[0]))


def folder_name(mixer: str) -> str:
    return mixer.replace(" ", "_")


def summarise(
    configuration: str, name: str, mixer: str, weights: int, memory: int, fold: Path, report: dict[str, Any]
) -> Row:
    """The row of a finished run."""
    records = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    plan = json.loads((fold / "plan.json").read_text())
    summaries = {summary["label"]: summary for summary in report["summary"] if summary["metric"] == "dice"}
    interval = list(summaries.values())[-1]["interval_95"]
    step_s, validation_in_step = step_time(records)
    return Row(
        configuration=configuration,
        network=name,
        mixer=mixer,
        weights=weights,
        steps=max(record["step"] for record in records),
        batch=plan["train"]["batch_size"],
        step_s=step_s,
        memory_gb=memory / 1e9,
        dice={label: summary["mean"] for label, summary in summaries.items()},
        interval=None if interval is None else (interval[0], interval[1]),
        validation_in_step=validation_in_step,
    )


def step_time(records: list[dict[str, Any]]) -> tuple[float | None, bool]:
    """Median time from one step to the next in seconds, and whether a validation lies between any two steps."""

    def times(events: list[dict[str, Any]]) -> list[float]:
        pairs = [(a, b) for a, b in pairwise(events) if a["event"] == b["event"] == "step"]
        return [after["elapsed_s"] - before["elapsed_s"] for before, after in pairs]

    if alone := times(records):
        return statistics.median(alone), False
    together = times([record for record in records if record["event"] == "step"])
    return (statistics.median(together), True) if together else (None, False)


class Rows:
    """The finished rows on disk.

    Args:
        path: of the file.
        settings: what all rows must have been made with.

    Raises:
        SystemExit: if the file's rows were made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.rows = path, settings, dict[str, Row]()
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["settings"] != settings:
                raise SystemExit(f"{path} has rows made with {kept['settings']}, not {settings}; give another --work")
            self.rows = {key: Row(**row) for key, row in kept["rows"].items()}

    def add(self, key: str, row: Row) -> None:
        """Keep a row; the file is never half written."""
        self.rows[key] = row
        text = json.dumps({"settings": self.settings, "rows": {k: asdict(r) for k, r in self.rows.items()}}, indent=2)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self.path)


def table(rows: list[Row]) -> str:
    """Markdown, in the order of the rows."""
    labels = list(dict.fromkeys(label for row in rows for label in row.dice))
    head = ["network", "mixer", "dims", "parameters", "steps", "s/step", "memory", *(f"Dice {name}" for name in labels)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        dice = [figure(row.dice.get(label)) for label in labels]
        if row.interval is not None:
            dice[-1] += f" ({row.interval[0]:.3f} to {row.interval[1]:.3f})"
        cells = [
            *(row.network, row.mixer, row.configuration, f"{row.weights:,}", f"{row.steps} x {row.batch}"),
            *(duration(row), f"{row.memory_gb:.1f} GB", *dice),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def duration(row: Row) -> str:
    """Time of a step, if known."""
    return "-" if row.step_s is None else ("< " if row.validation_in_step else "") + f"{row.step_s:.2f}"


def figure(value: float | None) -> str:
    """A Dice, or that it is undefined."""
    return "-" if value is None else f"{value:.3f}"


def jobs(options: argparse.Namespace) -> list[tuple[dict[str, Any], str, str]]:
    """Network, configuration and mixer of every row that was asked for."""
    log = options.work / "networks.txt"
    entries = [entry for entry in json.loads(run("networks", "--json", log=log)[0]) if entry["task"] == "segmentation"]
    names = [entry["name"] for entry in entries]
    if unknown := sorted(set(options.networks or ()) - set(names)):
        raise SystemExit(f"there is no segmentation network {', '.join(unknown)}; choose from {', '.join(names)}")
    planned = run(
        *("plan", options.dataset, "--configuration", "all", "--work", options.work / folder_name(PUBLISHED)),
        *("--force", "--json"),
        log=log,
    )
    possible = {plan["configuration"] for plan in json.loads(planned[0])["plans"]}
    return [
        (entry, CONFIGURATIONS[dims], mixer)
        for dims in options.dims
        if CONFIGURATIONS[dims] in possible
        for entry in entries
        if entry["name"] in (options.networks or names) and dims in entry["dims"]
        for mixer in (PUBLISHED, NONE)
        if mixer == PUBLISHED or "mixer" in entry["options"]
    ]


def main() -> None:
    shared = os.environ.get("MEDMAMBA_SHARED")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "dataset",
        type=Path,
        nargs="?" if shared else None,
        default=Path(shared) / "data" / "msd_hippocampus" if shared else None,
        help="folder of a data set; without it $MEDMAMBA_SHARED/data/msd_hippocampus",
    )
    parser.add_argument("--minutes", type=float, default=3, help="of training, for each row (default 3)")
    parser.add_argument("--steps", type=int, help="train for so many steps instead, which can be repeated bit for bit")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="only these (default all)")
    parser.add_argument("--dims", type=int, nargs="+", choices=(2, 3), default=(2, 3), help="slices, volumes")
    parser.add_argument("--work", type=Path, default=Path("networks-work"), help="folder for all that is computed")
    options = parser.parse_args()
    options.dataset = options.dataset.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    length = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
    kept = Rows(options.work / "rows.json", {"dataset": str(options.dataset), **length})
    print(f"{machine()}\n{options.dataset.name}, {next(f'{v:g} {k}' for k, v in length.items())} of training each\n")
    chosen, failures = [], []
    for entry, configuration, mixer in jobs(options):
        key = f"{configuration} {entry['name']} {mixer}"
        try:
            if key not in kept.rows:
                print(f"{key} ...", file=sys.stderr, flush=True)
                kept.add(key, measure(entry, configuration, mixer, options))
        except CommandError as error:
            failures.append(f"- {key}: {error}")
            print(failures[-1], file=sys.stderr, flush=True)
            continue
        chosen.append(kept.rows[key])
    print(table(chosen))
    print(f"\n{NOTE}")
    if failures:
        raise SystemExit("\nThese failed and are tried again by the same command:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
