"""Where predictions come from, as far as what lies beside them says so."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medmamba.errors import DataError
from medmamba.evaluation.scores import Origin
from medmamba.io.manifest import Manifest
from medmamba.records import RecordError, read_json

#: What measures, besides this package.
MEASURING = ("numpy", "scipy", "connected-components-3d")
#: So many digits tell a digest from others.
DIGITS = 12


def origin(prediction: Path, reference: Path) -> Origin:
    """What is known of a folder of predictions, or of one.

    Args:
        prediction: the file or folder.
        reference: that it is compared with.
    """
    folder = prediction if prediction.is_dir() else prediction.parent
    model, plan = _by_manifest(folder)
    return Origin(
        prediction=prediction.resolve(),
        reference=reference.resolve(),
        model=model or _by_nnunet(folder),
        plan_digest=plan,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of the packages that measure, as far as they are installed."""
    found = {}
    for name in ("medmamba", *MEASURING):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra
            continue
    return found


def _by_manifest(folder: Path) -> tuple[str, str]:
    """The model and the digest of its plan, by the record of `medmamba predict`; empty where there is none."""
    try:
        manifest = Manifest.load(folder)
    except DataError:  # of another program
        return "", ""
    makers = Counter((made.maker, made.medmamba) for made in manifest.made.values())
    if not makers:
        return "", manifest.unrecorded.plan
    (maker, made_by), _ = makers.most_common(1)[0]
    more = f", and {len(makers) - 1} others" if len(makers) > 1 else ""
    weights = ", ".join(digest[:DIGITS] for digest in maker.weights)
    mirrored = ", mirrored" if maker.mirror else ""
    return f"MedMamba {made_by}, weights {weights}, {maker.precision}{mirrored}{more}", maker.plan


def _by_nnunet(folder: Path) -> str:
    """The plans that nnU-Net copies beside its predictions."""
    path = folder / "plans.json"
    if not path.is_file():
        return ""
    try:
        facts = read_json(path)
    except RecordError:  # of another program
        return ""
    names = [facts.get(key) for key in ("plans_name", "dataset_name")] if isinstance(facts, dict) else []
    return f"nnU-Net: {', '.join(name for name in names if isinstance(name, str))}" if any(names) else ""
