"""Processes that a program starts find what it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, subprocess, sys
from mamba_ssm.modules.mamba_simple import Mamba
import selective_scan_cuda_core

def work(number):
    return number + Mamba(8).d_inner

class Numbers:
    def __len__(self):
        return 3

    def __getitem__(self, i):
        import causal_conv1d_cuda, importlib.metadata
        return i + len(importlib.metadata.version("causal_conv1d")) - len(importlib.metadata.version("causal_conv1d"))

def pool(method):
    with multiprocessing.get_context(method).Pool(1) as workers:
        return workers.map(work, [1, 2])

def loader(method):
    from torch.utils.data import DataLoader
    return next(iter(DataLoader(Numbers(), 3, num_workers=1, multiprocessing_context=method))).tolist()

def python(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

if __name__ == "__main__":
    print(*(globals()[kind](argument) for kind, argument in zip(sys.argv[1::2], sys.argv[2::2])))
"""
INSTALLED = "if __name__ == '__main__':\n    from medmamba.kernels import compat\n    compat.install()\n"


def run(tmp_path: Path, *arguments: str, begin: str = "", under_compat: bool = True) -> str:
    script = tmp_path / "program.py"
    script.write_text(begin + PROGRAM)
    command = [sys.executable, *(("-m", "medmamba.kernels.compat") if under_compat else ()), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_worker_and_another_python_that_a_program_starts_have_it(tmp_path: Path) -> None:
    command = "import mamba_ssm; print(mamba_ssm.Mamba(4).d_inner)"
    assert run(tmp_path, "pool", "spawn", "python", command) == "[17, 18] 8"


def test_spawned_worker_of_a_program_that_installs_it_has_it(tmp_path: Path) -> None:
    assert run(tmp_path, "loader", "spawn", begin=INSTALLED, under_compat=False) == "[0, 1, 2]"


@pytest.mark.slow
def test_workers_of_every_kind_have_it(tmp_path: Path) -> None:
    assert run(tmp_path, "pool", "forkserver", "loader", "spawn") == "[17, 18] [0, 1, 2]"
    assert run(tmp_path, "pool", "spawn", begin=INSTALLED, under_compat=False) == "[17, 18]"
