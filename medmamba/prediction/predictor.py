"""From a case to a segmentation on the case's own grid.

The network looks at overlapping windows; their logits are averaged with Gaussian weights, over flips of the mirror
axes and over folds, brought back to the grid of the image, and only then turned into labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medmamba import io, networks
from medmamba.case import Case
from medmamba.data.preprocess import Preprocessor
from medmamba.device import Precision
from medmamba.errors import DataError, MedMambaError, UsageError
from medmamba.files import in_words
from medmamba.io.manifest import Maker
from medmamba.memory import check_memory, check_reading, grid, memory_errors
from medmamba.plans.plan import Plan
from medmamba.prediction.folder import SegmentationFolder, Writer
from medmamba.progress import Progress, silent
from medmamba.tasks.segmentation import Segmentation, set_deep_supervision
from medmamba.training.fold import task_of
from medmamba.training.run import Run, RunError, Weights
from medmamba.training.trainer import autocast
from medmamba.training.weights import weights_digest
from medmamba.volume import Volume

log = logging.getLogger(__name__)

#: Width of the Gaussian that weights a window, as a share of the window; nnU-Net's value.
WINDOW_SIGMA = 0.125
#: Slices of a case that a 2D network sees at a time.
SLICES_AT_A_TIME = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: ``done``, ``skipped`` (finished earlier) or ``failed``.

    The message says why it failed, why it was done again, or what is to be known of the one that was finished; it is
    empty when there is nothing to say.
    """

    case: str
    status: Literal["done", "skipped", "failed"]
    message: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What networks say of a case, on the grid of its images.

    Args:
        segmentation: (1, I, J, K) label values.
        probabilities: (S, I, J, K) float32 of each structure, where they were asked for.
    """

    segmentation: Volume
    probabilities: Volume | None = None


class Predictor:
    """Segments cases with the networks of one or several folds.

    Args:
        plan: that all networks were trained with.
        members: trained networks, one per fold.
        device: where they run.
        precision: of their arithmetic.
        mirror: average over flips along the plan's mirror axes; None: as the plan says.

    Raises:
        UsageError: if the plan's network is for another task than segmentation.
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
        self.task = _segmentation(plan)
        self.members = [member.to(device).eval() for member in members]
        self.device = device
        self.precision = precision
        self.preprocessor = Preprocessor(plan)
        axes = plan.train.mirror_axes if (plan.inference.mirror if mirror is None else mirror) else ()
        # Tensor axes of every combination of flips, the identity first; spatial axes come after batch and channel.
        self.flips = [[axis + 2 for axis in chosen] for n in range(len(axes) + 1) for chosen in combinations(axes, n)]

    @classmethod
    @memory_errors()
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
            UsageError: if the runs' network is for another task than segmentation.
        """
        plan = runs[0].plan
        members = []
        for run in runs:
            same = (run.plan.network, run.plan.topology, run.plan.preprocessing_digest())
            if same != (plan.network, plan.topology, plan.preprocessing_digest()):
                raise RunError(
                    f"{run.folder} was trained with another plan than {runs[0].folder}; they cannot be averaged"
                )
            network = _segmentation(run.plan).network()
            used = run.load_weights(network, weights)
            log.info("%s: %s weights", run.folder, used)
            set_deep_supervision(network, False)
            members.append(network)
        return cls(plan, members, device, precision=precision or runs[0].info.precision, mirror=mirror)

    @cached_property
    def maker(self) -> Maker:
        """What a segmentation depends on besides the image."""
        return Maker(
            plan=self.plan.digest(),
            weights=tuple(sorted(weights_digest(member) for member in self.members)),
            precision=self.precision,
            mirror=len(self.flips) > 1,
        )

    def __call__(self, case: Case) -> Volume:
        """Segment one case: (1, I, J, K) label values on the grid of its images; errors as `segment`."""
        return self.segment(case).segmentation

    @memory_errors()
    def segment(self, case: Case, *, probabilities: bool = False) -> Answer:
        """Segment one case, with the probabilities behind it where they are asked for.

        Raises:
            TooLittleMemoryError: if that needs more memory than is free, foreseen or when it runs out.
            DataError: if the images cannot be read or do not have the plan's channels.
        """
        check_reading(io.read_geometry(case.images[0]), len(self.plan.channels))
        image = io.read_case(case)
        if image.channels != len(self.plan.channels):
            names = ", ".join(channel.name for channel in self.plan.channels)
            raise DataError(
                f"case {case.id} has {image.channels} channels, the model was trained with {len(self.plan.channels)} "
                f"({names}), in this order; check the files {[path.name for path in case.images]}"
            )
        sample = self.preprocessor.forward(image, on_nonfinite="replace", case=case.id)
        shape = sample.image.shape[1:]
        check_memory(
            self.preprocessor.restoring_bytes(shape, sample.trail),
            f"segmenting {' x '.join(map(str, shape))} voxels, resampled from "
            f"{grid(image.geometry.shape, image.geometry.spacing_mm)}, into {self.plan.labels.output_channels} classes",
        )
        logits = self.logits(torch.from_numpy(np.ascontiguousarray(sample.image)))
        segmentation = Volume(self.task.restore(logits.numpy(), sample.trail)[None], image.geometry)
        if not probabilities:
            return Answer(segmentation)
        outputs = self.preprocessor.restore_probabilities(logits.numpy(), sample.trail)
        structures = outputs if self.plan.labels.has_regions else outputs[1:]
        return Answer(segmentation, Volume(structures, image.geometry))

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


def _segmentation(plan: Plan) -> Segmentation:
    """The task of a plan, where that makes label maps of windows, as `Segmentation` and what derives from it do."""
    task = task_of(plan)
    if not issubclass(task, Segmentation):
        name = networks.describe(plan.network.name).task
        raise UsageError(
            f"network {plan.network.name!r} is for {name}, and prediction is for segmentation; give a model whose "
            "network `medmamba networks` lists for segmentation"
        )
    return task(plan)


def predict_cases(
    cases: Sequence[Case],
    predictor: Predictor,
    folder: Path,
    *,
    overwrite: bool = False,
    endings: Sequence[str] = (),
    writers: Mapping[str, Writer] | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """Segment many cases into a folder; a case that fails does not stop the others.

    What is finished is not done again; what another model, other options or another image would change is, unless
    somebody edited the file (see `medmamba.prediction.folder`).

    Args:
        cases: what to segment; the file of a case is called after its id.
        predictor: the trained networks.
        folder: where the segmentations go; made if need be.
        overwrite: also segment cases that are finished, and replace files that were not made here.
        endings: of the files, such as ``.nrrd``, one of each for a case; none: that of each case's first image.
        writers: of formats with settings, see `medmamba.prediction.objects`.
        progress: shows how far it is.

    Returns:
        One outcome per case, in their order.

    Raises:
        OutputError: if a segmentation would take the place of an image or reference, or a case has one of another
            ending; nothing is written then.
        UsageError: if there is no such ending.
        DataError: if two cases have one id.
        OSError: if the folder cannot be written; what was finished by then stays.
    """
    plan = predictor.plan
    segmentations = SegmentationFolder(
        folder, cases, predictor.maker, plan.labels, endings=endings, writers=writers, otherwise=plan.file_ending
    )
    return [
        _predict_case(case, predictor, segmentations, overwrite)
        for case in progress(cases, title="Predicting", total=len(cases))
    ]


def _predict_case(case: Case, predictor: Predictor, folder: SegmentationFolder, overwrite: bool) -> Outcome:
    try:
        standing = folder.standing(case)
        if standing.kind == "finished" and not overwrite:
            return Outcome(case=case.id, status="skipped", message=standing.reason)
        if not standing.allows(overwrite=overwrite):
            return _failed(case, standing.reason)
        answer = predictor.segment(case, probabilities=folder.stores_probabilities(case))
    except (MedMambaError, OSError, MemoryError) as error:
        return _failed(case, in_words(error))
    # From here on an error of the system is one of the output, and the next case would meet it as well.
    try:
        folder.store(
            case,
            answer.segmentation,
            probabilities=answer.probabilities,
            images_digest=standing.images_digest,
            overwrite=overwrite,
        )
    except (DataError, UsageError) as error:
        return _failed(case, str(error))
    again = standing.reason if standing.kind == "outdated" else ""
    return Outcome(case=case.id, status="done", message=again)


def _failed(case: Case, reason: str) -> Outcome:
    log.warning("case %s failed: %s", case.id, reason)
    return Outcome(case=case.id, status="failed", message=reason)
