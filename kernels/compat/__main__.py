"""``python -m medmamba.kernels.compat script.py args...``: run a script that wants mamba_ssm or causal_conv1d."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

from . import LAST, STANDINS, install


def main() -> None:
    """Run a script or module as Python would, with our kernels in the place of the packages; so do its children."""
    parser = argparse.ArgumentParser(
        prog="python -m medmamba.kernels.compat",
        description="Run code written against mamba_ssm, causal_conv1d or VMamba's selective_scan_cuda modules on "
        "medmamba's kernels: on a CPU, or on a GPU with Triton, without compiling anything.",
        epilog="for example: python -m medmamba.kernels.compat train.py --epochs 3",
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    parser.add_argument("--force", action="store_true", help="stand in even for packages that are installed")
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="script.py args...", help="the script and its arguments"
    )
    options = parser.parse_args()
    if not options.module and not options.rest:
        parser.error("name a script to run, or a module with -m")
    if options.rest and not options.module and not Path(options.rest[0]).exists():
        parser.error(f"there is no script {options.rest[0]}")
    try:
        install(force=options.force)
    except RuntimeError as error:
        parser.error(str(error))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(STANDINS), os.environ.get("PYTHONPATH"), str(LAST))))
    if options.module:
        sys.argv = [options.module, *options.rest]
        sys.path.insert(0, "")
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = options.rest
        sys.path.insert(0, str(Path(options.rest[0]).resolve().parent))
        runpy.run_path(options.rest[0], run_name="__main__")


if __name__ == "__main__":
    main()
