"""From a case to a segmentation on the case's own grid.

The network looks at overlapping windows; their logits are averaged with Gaussian weights, over flips of the mirror
axes and over folds, brought back to the grid of the image, and only then turned into labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

import medmamba
from medmamba import io
from medmamba.case import MANIFEST, Case
from medmamba.checkpoint import Precision, Run, RunError, Weights
from medmamba.data.preprocess import Preprocessor
from medmamba.plans._json import read_json, write_json
from medmamba.plans.plan import Plan
from medmamba.progress import Progress, silent
from medmamba.tasks.segmentation import build_network, set_deep_supervision
from medmamba.train import autocast
from medmamba.volume import Volume

log = logging.getLogger(__name__)

#: Width of the Gaussian that weights a window, as a share of the window; nnU-Net's value.
WINDOW_SIGMA = 0.125
#: Slices of a case that a 2D network sees at a time.
SLICES_AT_A_TIME = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: ``done``, ``skipped`` (finished earlier) or ``failed``, and why."""

    case: str
    status: Literal["done", "skipped", "failed"]
    message: str = ""


class Predictor:
    """Segments cases with the networks of one or several folds.

    Args:
        plan: that all networks were trained with.
        members: trained networks, one per fold.
        device: where they run.
        precision: of their arithmetic.
        mirror: average over flips along the plan's mirror axes; None: as the plan says.
    """

    def __init__(
        self,
        plan: Plan,
        members: Sequence[nn.Module],
        device: torch.device,
        *,
        precision: Precision = "fp32",
        mirror: bool | None = None,
    ) -> None:
        self.plan = plan
        self.members = [member.to(device).eval() for member in members]
        self.device = device
        self.precision = precision
        self.preprocessor = Preprocessor(plan)
        axes = plan.train.mirror_axes if (plan.inference.mirror if mirror is None else mirror) else ()
        # Tensor axes of every combination of flips, the identity first; spatial axes come after batch and channel.
        self.flips = [[axis + 2 for axis in chosen] for n in range(len(axes) + 1) for chosen in combinations(axes, n)]

    @classmethod
    def from_runs(
        cls,
        runs: Sequence[Run],
        device: torch.device,
        *,
        precision: Precision | None = None,
        weights: Weights | None = None,
        mirror: bool | None = None,
    ) -> Predictor:
        """Load the networks of one run per fold.

        Raises:
            RunError: if a run has no weights, or the runs' plans prepare images differently.
        """
        plan = runs[0].plan
        members = []
        for run in runs:
            same = (run.plan.network, run.plan.topology, run.plan.preprocessing_digest())
            if same != (plan.network, plan.topology, plan.preprocessing_digest()):
                raise RunError(
                    f"{run.folder} was trained with another plan than {runs[0].folder}; they cannot be averaged"
                )
            network = build_network(run.plan)
            used = run.load_weights(network, weights)
            log.info("%s: %s weights", run.folder, used)
            set_deep_supervision(network, False)
            members.append(network)
        return cls(plan, members, device, precision=precision or runs[0].info.precision, mirror=mirror)

    def __call__(self, case: Case) -> Volume:
        """Segment one case.

        Returns:
            (1, I, J, K) label values on the grid of the case's images.

        Raises:
            ValueError: if the images cannot be read or do not have the plan's channels.
        """
        image = io.read_case(case)
        if image.channels != len(self.plan.channels):
            names = ", ".join(channel.name for channel in self.plan.channels)
            raise ValueError(
                f"case {case.id} has {image.channels} channels, the model was trained with {len(self.plan.channels)} "
                f"({names}), in this order; check the files {[path.name for path in case.images]}"
            )
        sample = self.preprocessor.forward(image, on_nonfinite="replace", case=case.id)
        logits = self.logits(torch.from_numpy(np.ascontiguousarray(sample.image)))
        labels = self.preprocessor.restore(logits.numpy(), sample.trail)
        return Volume(labels[None], image.geometry)

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Logits of a preprocessed image, averaged over windows, flips and folds.

        Args:
            image: (C, *S), network axis order, on the CPU.

        Returns:
            (K, *S) float32 on the CPU.
        """
        if self.plan.topology.dims == 3:
            return self._windows(image[None])[0]
        # Slices along the first axis become the batch of a 2D network.
        slices = image.movedim(1, 0)
        done = [self._windows(some) for some in torch.split(slices, SLICES_AT_A_TIME)]
        return torch.cat(done).movedim(0, 1)

    def _windows(self, image: Tensor) -> Tensor:
        try:
            return self._sliding_window(image, accumulate_on=self.device)
        except torch.OutOfMemoryError:
            log.warning("not enough memory on %s for the whole image; adding windows up in main memory", self.device)
            torch.cuda.empty_cache()
            return self._sliding_window(image, accumulate_on=torch.device("cpu"))

    def _sliding_window(self, image: Tensor, accumulate_on: torch.device) -> Tensor:
        logits = sliding_window_inference(
            inputs=image.to(accumulate_on),
            roi_size=self.plan.topology.patch_size,
            sw_batch_size=len(image),  # one window of each slice at a time; a volume is one
            predictor=self._average,
            overlap=self.plan.inference.overlap,
            mode="gaussian",
            sigma_scale=WINDOW_SIGMA,
            padding_mode="constant",
            sw_device=self.device,
            device=accumulate_on,
        )
        assert isinstance(logits, Tensor)
        return logits.float().cpu()

    def _average(self, window: Tensor) -> Tensor:
        """Mean of the logits over flips and folds, (B, K, *S) float32."""
        total = torch.zeros(())
        for flip in self.flips:
            flipped = window.flip(flip) if flip else window
            for member in self.members:
                with autocast(self.device, self.precision):
                    output = member(flipped)
                output = output.float()
                total = total.to(output.device) + (output.flip(flip) if flip else output)
        return total / (len(self.flips) * len(self.members))


def predict_cases(
    cases: Sequence[Case], predictor: Predictor, folder: Path, *, overwrite: bool = False, progress: Progress = silent
) -> list[Outcome]:
    """Segment many cases into a folder; a case that fails does not stop the others.

    Which cases were asked for is left in the folder (`medmamba.case.MANIFEST`), so that an evaluation knows which ones
    to expect.

    Args:
        cases: what to segment; the file of a case is called after its id.
        predictor: the trained networks.
        folder: where the segmentations go; made if need be.
        overwrite: also segment cases whose file is there and sound.
        progress: shows how far it is.

    Returns:
        One outcome per case, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _note_request(cases, predictor.plan, folder)
    outcomes = []
    for case in progress(cases, title="Predicting", total=len(cases)):
        target = folder / f"{case.id}{predictor.plan.file_ending}"
        if not overwrite and _is_finished(target, case):
            outcomes.append(Outcome(case=case.id, status="skipped", message="finished earlier"))
            continue
        try:
            io.write(predictor(case), target, like=case.images[0])
        except (ValueError, OSError) as error:
            log.warning("case %s failed: %s", case.id, error)
            outcomes.append(Outcome(case=case.id, status="failed", message=str(error)))
        else:
            outcomes.append(Outcome(case=case.id, status="done"))
    return outcomes


def _note_request(cases: Sequence[Case], plan: Plan, folder: Path) -> None:
    path = folder / MANIFEST
    earlier = read_json(path)["cases"] if path.is_file() else []
    asked_for = sorted({*earlier, *(case.id for case in cases)})
    write_json({"cases": asked_for, "plan": plan.digest(), "medmamba": medmamba.__version__}, path)


def _is_finished(target: Path, case: Case) -> bool:
    """Whether a segmentation is there that can be read and lies on the case's grid."""
    if not target.is_file():
        return False
    try:
        # The segmentation is read whole, which finds a damaged file; of the image the header is enough.
        return io.read_label(target).geometry.same_grid(io.read_geometry(case.images[0]))
    except (ValueError, OSError) as error:
        log.warning("%s is there but not sound (%s); predicting it again", target, error)
        return False
