"""Processes that a program starts find what it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
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
"""
POOL = """
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(work, [1, 2]))
"""
LOADER = """
if __name__ == "__main__":
    from torch.utils.data import DataLoader
    loader = DataLoader(Numbers(), batch_size=3, num_workers=1, multiprocessing_context=sys.argv[1])
    print(next(iter(loader)).tolist())
"""
COMMAND = """
if __name__ == "__main__":
    print(subprocess.run([sys.executable, "-c", "import mamba_ssm; print(mamba_ssm.Mamba(4).d_inner)"], check=True,
                         capture_output=True, text=True).stdout.strip())
"""


def run(tmp_path: Path, main: str, *arguments: str, begin: str = "", under_compat: bool = True) -> str:
    script = tmp_path / "program.py"
    script.write_text(begin + CHILD + main)
    command = [sys.executable, *(("-m", "medmamba.kernels.compat") if under_compat else ()), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pool_works_with_it(tmp_path: Path, method: str) -> None:
    assert run(tmp_path, POOL, method) == "[17, 18]"


def test_spawned_worker_of_a_loader_has_it(tmp_path: Path) -> None:
    assert run(tmp_path, LOADER, "spawn") == "[0, 1, 2]"


def test_another_python_that_is_started_has_it(tmp_path: Path) -> None:
    assert run(tmp_path, COMMAND) == "8"


def test_children_of_a_program_that_installs_it_have_it(tmp_path: Path) -> None:
    begin = "if __name__ == '__main__':\n    from medmamba.kernels import compat\n    compat.install()\n"
    assert run(tmp_path, POOL, "spawn", begin=begin, under_compat=False) == "[17, 18]"
