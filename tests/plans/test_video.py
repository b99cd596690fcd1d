from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medmamba.errors import DataError
from medmamba.io import open_dataset
from medmamba.plans.clips_fingerprint import clips_fingerprint
from medmamba.plans.plan import Plan, VideoPlan
from medmamba.plans.workspace import PlannedResult, plan_dataset, planned_dataset
from medmamba.records import from_json, to_json
from tests.clips_factory import SIZE, frame, write_clip, write_films
from tests.data.factory import make_plan


def planned(root: Path, gpu_memory_gb: float = 8.0, network: str = "vivim") -> PlannedResult:
    return plan_dataset(root, network, work=root.parent / "work", gpu_memory_gb=gpu_memory_gb)


def decided(result: PlannedResult) -> dict[str, str]:
    return {decision.what: f"{decision.value}: {decision.reason}" for decision in result.decisions}


def test_films_are_measured_frame_by_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/a", tmp_path / "masks/a", range(6), labelled=(0, 1, 4))
    (clip,) = clips_fingerprint(open_dataset(tmp_path)).clips
    (_, first), (_, second), (_, late) = map(frame, (0, 1, 4))
    assert (clip.size, clip.frames, clip.labelled, clip.rate, clip.spacing_mm) == (SIZE, 6, 3, None, None)
    assert clip.label_pixels["1"] == sum(int((mask == 1).sum()) for mask in (first, second, late))
    assert clip.motion == pytest.approx((first != second).mean())
    pictures = [frame(at)[0].astype(int) for at in range(6)]
    low, high = min(map(np.min, pictures)), max(map(np.max, pictures))
    changes = [(np.abs(b - a) > 0.1 * (high - low)).any(-1).mean() for a, b in pairwise(pictures)]
    assert clip.flicker == pytest.approx(np.mean(changes))


def test_intensities_are_those_of_all_pixels(tmp_path: Path) -> None:
    found = clips_fingerprint(open_dataset(write_films(tmp_path, names=("a", "b")))).intensities
    pixels = np.concatenate([frame(at + start)[0] for start in (0, 1) for at in range(6)])
    assert [each.mean for each in found] == pytest.approx(pixels.reshape(-1, 3).mean(0).tolist())
    assert [each.std for each in found] == pytest.approx(pixels.reshape(-1, 3).std(0).tolist())


def test_small_films_are_seen_whole_in_clips_of_five_frames_or_more(tmp_path: Path) -> None:
    result = planned(write_films(tmp_path / "films"))
    plan = result.plan
    assert (plan.task, plan.configuration, plan.network.name) == ("video", "2d", "vivim")
    assert plan.topology.patch_size == (64, 64)
    assert plan.topology.total_stride == (32, 32)
    assert plan.spacing_mm == (1.0, 1.0)
    assert plan.video == VideoPlan(clip_length=6, stride=1)
    assert [channel.normalization for channel in plan.channels] == ["ct"] * 3
    assert plan.train.batch_size == 2
    assert "3" in decided(result)["folds"]
    assert result.fingerprint_path.is_file()
    assert Plan.load(result.path) == plan
    assert planned_dataset(plan).training == open_dataset(tmp_path / "films").training


def test_less_memory_makes_smaller_frames_of_the_same_proportions(tmp_path: Path) -> None:
    root = write_films(tmp_path / "films", names=("a", "b"), size=(300, 400))
    whole, small = planned(root, 24).plan, planned(root, 4).plan
    assert whole.topology.patch_size == (320, 416)
    height, width = small.topology.patch_size
    assert height * width < 320 * 416
    assert height / width == pytest.approx(300 / 400, rel=0.15)


def test_more_memory_makes_longer_clips_and_then_batches(tmp_path: Path) -> None:
    root = write_films(tmp_path / "films", names=("a", "b"), numbers=range(40), size=(96, 96))
    little, much = planned(root, 2).plan, planned(root, 8).plan
    assert little.video == VideoPlan(clip_length=5, stride=4)
    assert much.video == VideoPlan(clip_length=10, stride=4)  # which is all of a film


@pytest.mark.parametrize(("frames", "stride"), [(24, 4), (12, 2), (6, 1)])
def test_films_in_which_little_moves_are_seen_with_a_stride(tmp_path: Path, frames: int, stride: int) -> None:
    root = write_films(tmp_path / "films", names=("a", "b"), numbers=range(frames), size=(96, 96))
    result = planned(root)
    assert result.plan.video is not None
    assert result.plan.video.stride == stride  # five of which are no longer than a film
    assert "of the pixels change their label from frame to frame" in decided(result)["stride"]


def test_frames_as_large_as_no_memory_holds_are_refused(tmp_path: Path) -> None:
    root = write_films(tmp_path / "films", names=("a", "b"), numbers=range(3))
    with pytest.raises(DataError, match="do not train in 1 GB, however small"):
        planned(root, 1.0)


def test_another_network_gets_nnunets_topology_of_frames(tmp_path: Path) -> None:
    plan = planned(write_films(tmp_path / "films"), network="frames:unet").plan
    assert plan.topology.strides[0] == (1, 1)
    assert plan.topology.dims == 2


def test_values_that_no_label_has_cannot_be_planned_for(tmp_path: Path) -> None:
    root = write_films(tmp_path / "films", names=("a", "b"), numbers=range(2))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "disk": 9}}))
    with pytest.raises(DataError, match=r"the value 1 at row 17, column 9; labels are 0, 9"):
        planned(root)


def test_measurements_are_made_again_when_a_frame_was_exchanged(tmp_path: Path) -> None:
    dataset = open_dataset(write_films(tmp_path / "films", names=("a", "b")))
    found = clips_fingerprint(dataset)
    assert found.describes(dataset)
    (tmp_path / "films/masks/b/0002.png").unlink()
    assert not found.describes(dataset)


def test_rates_of_film_files_are_measured_and_a_mixture_is_a_warning(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="film files need PyAV")
    root = tmp_path / "films"
    (root / "videos").mkdir(parents=True)
    for name, rate in (("a", 25), ("b", 25), ("c", 50)):
        with av.open(str(root / "videos" / f"{name}.mp4"), "w") as film:
            stream = film.add_stream("libx264", rate=rate, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            pictures = [av.VideoFrame.from_ndarray(frame(at)[0], format="rgb24") for at in range(8)]
            for picture in (*pictures, None):
                film.mux(stream.encode(picture))
        write_clip(tmp_path / "frames" / name, root / "masks" / name, range(8), labelled=(3,))
    result = planned(root)
    assert result.plan.video is not None
    assert result.plan.video.rate == 25
    assert "rates from 25 to 50 frames a second" in decided(result)["warning"]
    assert "3 of 24 frames" in decided(result)["masks"]


def test_a_plan_for_video_has_its_part_and_no_other_plan_has() -> None:
    plan = make_plan()
    assert plan.task == "segmentation"
    with pytest.raises(DataError, match="a plan for video needs the part 'video'"):
        plan.override("task", "video")
    with pytest.raises(DataError, match="a plan for segmentation has no use for the part 'video'"):
        plan.override("video", {"clip_length": 5})


def test_plans_made_before_there_was_video_keep_their_digest() -> None:
    plan = make_plan()
    old = to_json(plan)
    del old["video"]
    assert from_json(Plan, old, "plan").digest() == plan.digest()


@pytest.mark.parametrize(
    ("field", "value"), [("clip_length", 0), ("stride", 0), ("rate", 0.0), ("edge_weight", -1.0), ("window_overlap", 1)]
)
def test_settings_of_clips_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"{field} must be"):
        VideoPlan(**({"clip_length": 5} | {field: value}))  # type: ignore[arg-type]
