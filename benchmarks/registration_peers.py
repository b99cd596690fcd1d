"""Registration by other software, each in a Python of its own: what the benchmarks of registration call.

    PYTHON registration_peers.py ants|elastix FIXED MOVING FOLDER OPTIONS [AFFINE]

``FOLDER`` gets ``warp.nii.gz``, the displacement from the fixed to the moving image in LPS millimetres, for ANTs
``affine.mat`` that acts after it, and ``cost.json``. Nothing here needs medmamba but what reads these.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def by_ants(fixed: str, moving: str, folder: Path, options: dict[str, Any], affine: str = "") -> None:
    """By antspyx; from an affine map (.tfm), or from where the headers have the images."""
    import ants

    images = [ants.image_read(path) for path in (fixed, moving)]
    begun, used = time.perf_counter(), processor_seconds()
    found = ants.registration(*images, initial_transform=affine or "identity", **options)
    cost(folder, begun, used)
    warps = [path for path in found["fwdtransforms"] if path.endswith("Warp.nii.gz")]
    matrices = [path for path in found["fwdtransforms"] if path not in warps]
    shutil.copyfile(warps[0], folder / "warp.nii.gz")
    if matrices:
        ants.write_transform(ants.read_transform(matrices[0]), str(folder / "affine.mat"))


def by_elastix(fixed: str, moving: str, folder: Path, options: dict[str, Any], affine: str = "") -> None:
    """By elastix's own "bspline" but for the options: cubic B-splines, Mattes' mutual information, bending energy."""
    import itk

    count = int(os.environ["OMP_NUM_THREADS"])
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(count)
    images = [itk.imread(path, itk.F) for path in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    own = parameters.GetDefaultParameterMap("bspline")
    for name, value in options.items():
        own[name] = [value]
    parameters.AddParameterMap(own)
    begun, used = time.perf_counter(), processor_seconds()
    _, found = itk.elastix_registration_method(
        *images, parameter_object=parameters, log_to_console=False, number_of_threads=count
    )
    cost(folder, begun, used)
    itk.imwrite(itk.transformix_deformation_field(images[1], found), str(folder / "warp.nii.gz"))


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cost(folder: Path, begun: float, used: float) -> None:
    """Time since then, and memory of this process alone; what getrusage tells includes who started it."""
    seconds = {"registration": time.perf_counter() - begun, "processor": processor_seconds() - used}
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    (folder / "cost.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))


# For the benchmarks


def peer(
    kind: str, python: Path, record: dict[str, Any], folder: Path, options: dict[str, Any], count: int, affine: str = ""
) -> None:
    """Register a pair by a peer, in a folder as `medmamba evaluate` reads it; what is there is not done again.

    Args:
        kind: ants or elastix.
        python: that has it.
        record: with the files of ``fixed`` and ``moving``, as in a run.json.
        folder: of the pair.
        options: see above.
        count: of threads.
        affine: file of the map to start from.
    """
    from medmamba.io.formats.transforms import read_transform, write_transform
    from medmamba.transform import Transform

    if (folder / "run.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    images = [record[side]["image"] for side in ("fixed", "moving")]
    inner = [str(python), __file__, kind, *images, str(folder), json.dumps(options), affine]
    subprocess.run(inner, check=True, stdout=subprocess.DEVNULL, env=threads(count))
    files = [path for path in (folder / "warp.nii.gz", folder / "affine.mat") if path.exists()]
    steps = [step for path in files for step in read_transform(path).steps]
    write_transform(Transform(tuple(steps)), folder / "transform.h5")
    kept = {side: record[side] for side in ("fixed", "moving")}
    (folder / "run.json").write_text(json.dumps(kept | json.loads((folder / "cost.json").read_text())))


def threads(count: int) -> dict[str, str]:
    """Threads that wait do not count as work: without it, those of OpenMP burn the processor's seconds they wait."""
    number = str(count)
    limits = {"OMP_NUM_THREADS": number, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": number, "OMP_WAIT_POLICY": "passive"}
    return os.environ | limits | {"ANTS_RANDOM_SEED": "1"}  # antspyx's own argument for it has no effect


def at_once(count: int, work: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, names))


def main() -> None:
    kind, fixed, moving, folder, options, affine = sys.argv[1:]
    {"ants": by_ants, "elastix": by_elastix}[kind](fixed, moving, Path(folder), json.loads(options), affine)


if __name__ == "__main__":
    main()
