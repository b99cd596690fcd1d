"""The page holds what the reports say, harms nobody, tells no secrets and needs no network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.case import Case, Dataset
from medmamba.errors import DataError, MachineError
from medmamba.evaluation import page
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.page import viewer
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import CaseScore, LabelScore, Origin, Reliability
from medmamba.evaluation.subgroups import Subgroups
from medmamba.labels import Label, Labels
from tests.evaluation.page.factory import ONE, TWO, Parsed, made_up, parsed, unpacked, write_masks

NAN, INF = float("nan"), float("inf")
IDS = tuple(f"case_{number:02d}" for number in range(12))
TELLING = ("<script>alert(1)</script>", "a\"b'c", "größe – 日本 🧠", "{{ 7*7 }}")
HOSTILE = (*TELLING, "x" * 300, "</script><b>", "name\udcff")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    reliability = Reliability(voxels=(5, 0, 5), confidence=(0.5, 0.0, 4.5), positives=(1, 0, 4))
    return parsed(made_up(IDS, name="ours", reliability=reliability), folder=tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    reports = made_up(IDS, name="ours", better=0.3), made_up(IDS, name="theirs", seed=1)
    return parsed(*reports, folder=tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("which", ["single", "several"])
def test_page_is_well_formed_and_every_id_is_there_once(which: str, request: pytest.FixtureRequest) -> None:
    made: Parsed = request.getfixturevalue(which)
    assert (made.unmatched, made.open) == ([], [])
    ids = made.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in made.attributes("href")}
    assert targets <= set(ids), "a link leads nowhere"
    named = {name for names in made.attributes("aria-labelledby") for name in names.split()}
    assert named <= set(ids)
    assert dict(made.tags[0][1] if made.tags[0][0] == "html" else {}) == {"lang": "en"}


def test_headings_come_in_order(several: Parsed) -> None:
    levels = [int(tag[1]) for tag, _ in several.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize("which", ["single", "several"])
def test_page_asks_the_network_for_nothing(which: str, request: pytest.FixtureRequest) -> None:
    made: Parsed = request.getfixturevalue(which)
    assert all(link.startswith("#") for link in made.attributes("href"))
    assert all(source.startswith("data:") for source in made.attributes("src"))
    assert "url(" not in made.source
    assert not re.search(r"https?://", made.source)
    assert not {tag for tag, _ in made.tags} & {"link", "iframe", "object", "embed", "base"}
    policy = next(facts["content"] for tag, facts in made.tags if facts.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy


def test_every_case_label_and_lesion_has_its_row(single: Parsed, several: Parsed) -> None:
    assert single.rows["cases-table"] == len(IDS) * 2
    assert single.rows["sums"] == 2 * 3  # metrics, labels and the mean over these
    assert single.rows["lesion-counts"] == len(IDS) * 2
    assert several.rows["cases-table"] == len(IDS) * 2 * 2
    assert several.rows["contrasts"] == 2 * 2
    assert several.rows["ranks"] == (1 + 2 * 2) * 2
    data = json.loads(single.scripts["data"])
    assert len(data["lesions"]) == len(IDS) * 2 * 3
    assert data["lesions"][0] == [0, 0, 0, "found", 0.5, 0.8, [3, 4, 5]]


def test_summary_says_how_good_how_sure_and_where(single: Parsed) -> None:
    words = single.words
    assert re.search(r"Mean Dice over 2 labels: 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}\), from 12 cases", words)
    assert "Weakest label:" in words
    assert "Worst in Dice: " in words
    assert "Lesions found: lesion 12 of 24 (50 %; 1.0 invented per case) and core 12 of 24 (50 %; 1.0 inv" in words
    assert "of 48" not in words, "a voxel may be of several labels, whose lesions are no sum"
    assert "4999 draws" in words


def test_summary_says_which_model_is_better_and_that_it_is_no_chance(several: Parsed) -> None:
    better = r"Dice of lesion: +ours is better, typically by 0\.\d+, more than chance explains "
    assert re.search(better + r"\(adjusted p [<=] 0\.\d+; of 12 cases \d+ won, 0 tied, \d lost\)", several.words)
    assert "adjusted by Holm for m = 4 tests" in several.words


def test_equal_models_are_not_told_apart(tmp_path: Path) -> None:
    words = parsed(made_up(IDS, name="a"), made_up(IDS, name="b", seed=0), folder=tmp_path).words
    assert "a and b have identical scores in every metric and label on all 12 cases" in words
    assert "is better," not in words
    assert "no difference" not in words


def test_nothing_is_claimed_for_fewer_than_five_cases(tmp_path: Path) -> None:
    made = parsed(made_up(IDS[:4], name="a", better=0.3), made_up(IDS[:4], name="b", seed=1), folder=tmp_path)
    assert "Only 4 cases:" in made.words
    assert "Nothing is claimed about which is better" in made.words
    assert "95 % interval 0" not in made.words
    assert "is better," not in made.words
    assert (
        "Lesions found: lesion 4 of 8 (in 4 cases; 4 invented) and core 4 of 8 (in 4 cases; 4 invented)" in made.words
    )


def test_definition_and_version_stand_beside_numbers_and_in_the_methods(single: Parsed) -> None:
    words = single.words
    assert words.count("surface-distance 0.1") >= 3 + 1
    assert any("surface-distance 0.1" in title for title in single.attributes("title"))
    assert "Both masks empty: undefined values are left out" in words
    assert "Seed of the bootstrap: 0" in words


@pytest.mark.parametrize("cases", [1, 2, 5])
@pytest.mark.parametrize("labels", [ONE, TWO])
def test_few_cases_and_labels_make_a_page(cases: int, labels: Labels, tmp_path: Path) -> None:
    made = parsed(made_up(IDS[:cases], labels=labels, metrics=("dice",), lesions=()), folder=tmp_path)
    assert made.rows["cases-table"] == cases * len(labels.foreground)
    assert "lesion-counts" not in made.rows


def test_ids_cannot_harm_the_page(tmp_path: Path) -> None:
    report = made_up(HOSTILE, labels=Labels(foreground=(Label(name="<i>label</i>", values=(1,)),)), name="<img src=x>")
    report = replace(report, cases=tuple(replace(case, notes=("<svg onload=x>",)) for case in report.cases))
    made = parsed(report, folder=tmp_path, title="</title><script>")
    assert (made.unmatched, made.open) == ([], [])
    assert [tag for tag, _ in made.tags].count("script") == 1 + 2  # data, and two of the page's own
    assert not [name for _, facts in made.tags for name in facts if name.startswith("on")]
    assert not {"img", "i"} & {tag for tag, _ in made.tags}
    assert json.loads(made.scripts["data"])["cases"] == sorted(HOSTILE)
    for words in (*TELLING, r"name\udcff", "<svg onload=x>"):
        assert words in made.words


def test_page_tells_no_folder_host_or_user(tmp_path: Path) -> None:
    secret = tmp_path / "ward 7" / "john_doe"
    predictions, references, images = write_masks(secret, 3)
    labels = TWO
    (predictions / "case_1.nii.gz").write_bytes(b"broken")
    matches = match_files(predictions, references)
    report = evaluate(matches.pairs, labels, extra=(secret / "extra.nii.gz",))
    origin = Origin(prediction=predictions, reference=references, model=f"run {secret}/fold_0/model.pt of plan")
    note = f"{predictions}/case_0.nii.gz lies on another grid than ../{secret.name}/case_0.nii.gz"
    cases = (replace(report.cases[0], notes=(note,)), *report.cases[1:])
    made = parsed(replace(report, cases=cases, origin=origin), folder=tmp_path, images=images)
    for part in ("john_doe", "ward", "predictions/", "references/", str(tmp_path), str(Path.home()) + "/"):
        assert part not in made.source.replace("predictions without a reference", "")
    assert "case_0.nii.gz lies on another grid than case_0.nii.gz" in made.words
    assert "case_1.nii.gz" in made.words, "of what failed, the file's name is told"


def test_failed_left_out_undefined_and_infinite_values_are_told(tmp_path: Path) -> None:
    rows = {"good": (0.8, 3.0), "empty": (NAN, NAN), "lost": (0.0, INF)}
    cases = [
        CaseScore(id=name, status="scored", scores=(LabelScore(label="lesion", values=values),))
        for name, values in rows.items()
    ]
    cases += [
        CaseScore(id="unread", status="failed", notes=("reference: broken",)),
        CaseScore(id="none", status="skipped", notes=("no prediction",)),
    ]
    report = Report(labels=ONE, metrics=("dice", "hd95"), cases=tuple(sorted(cases, key=lambda case: case.id)))
    words = parsed(report, folder=tmp_path).words
    assert "1 of 5 values are infinite" in words
    assert "1 case without a usable prediction or reference take no part: unread" in words
    assert "1 case without a prediction, left out on request" in words
    assert "∞" in words
    assert "reference: broken" in words


def test_nothing_scored_is_said_and_not_drawn(tmp_path: Path) -> None:
    cases = tuple(CaseScore(id=name, status="failed", notes=("reference: broken",)) for name in "ab")
    words = parsed(Report(labels=TWO, metrics=("dice",), cases=cases), folder=tmp_path).words
    assert "None of 2 cases could be scored" in words


def test_without_masks_at_hand_there_are_no_pictures_and_it_is_said(single: Parsed) -> None:
    assert "No pictures: the masks that the report was made of are not at hand" in single.words
    assert "img" not in {tag for tag, _ in single.tags}


@pytest.mark.parametrize("shape", [(20, 18, 12), (24, 20, 1)])
def test_cases_are_drawn_and_embedded_whatever_their_size(shape: tuple[int, int, int], tmp_path: Path) -> None:
    predictions, references, images = write_masks(tmp_path, 7, shape=shape)
    report = evaluate(match_files(predictions, references).pairs, TWO)
    report = replace(report, origin=Origin(prediction=predictions, reference=references))
    made = parsed(report, folder=tmp_path, images=images)
    pictures = [facts for tag, facts in made.tags if tag == "img"]
    assert len(pictures) == 7
    assert all(str(facts["alt"]).startswith("Errors of ") for facts in pictures)
    # What is right is shown pale over grey, and so it is in the legend; its outline is bright.
    swatch = "border-color:#a0e1b9;background:linear-gradient(#a0e1b96b 0 0),rgb(46, 46, 46)"
    assert made.attributes("style").count(swatch) == 2
    volumes = [json.loads(text) for name, text in made.scripts.items() if name.startswith("volumes-")]
    assert len(volumes) == 7
    for each in volumes:
        for packed in (each["reference"], *each["predictions"], each["image"]):
            assert len(unpacked(packed)) == np.prod(each["shape"])


def test_cases_of_all_folds_of_one_model_have_pictures(tmp_path: Path) -> None:
    predictions, references, images = write_masks(tmp_path, 6, shape=(20, 18, 12))
    report = evaluate(match_files(predictions, references).pairs, TWO)
    folder = tmp_path / "fold 1"
    folder.mkdir()
    for path in sorted(predictions.glob("*.nii.gz"))[:3]:
        path.rename(folder / path.name)
    report = replace(report, origin=Origin(prediction=predictions, reference=references, more=(folder,)))
    made = parsed(report, folder=tmp_path, images=images)
    volumes = [json.loads(text) for name, text in made.scripts.items() if name.startswith("volumes-")]
    assert [None in each["predictions"] for each in volumes] == [False] * 6


@pytest.mark.parametrize("together", [True, False])
def test_of_several_channels_the_one_with_most_to_see_is_shown(together: bool, tmp_path: Path) -> None:
    predictions, references, images = write_masks(tmp_path, 1)
    image = images / "case_0.nii.gz"
    volume = io.read(image)
    other = images / "other.nii.gz"
    io.write(volume.with_array(np.zeros_like(volume.array)), other)
    io.write(volume.with_array(np.concatenate([np.zeros_like(volume.array), volume.array])), images / "both.nii.gz")
    files = (images / "both.nii.gz",) if together else (other, image)
    case = Case(id="case_0", images=files)
    dataset = Dataset(
        name="d", root=images, layout="folders", channels=("T1", "FLAIR"), labels=TWO, training=(), test=(case,)
    )
    report = evaluate(match_files(predictions, references).pairs, TWO)
    report = replace(report, origin=Origin(prediction=predictions, reference=references))
    made = parsed(report, folder=tmp_path, images=dataset)
    assert "on the image (FLAIR)" in made.words
    assert max(unpacked(json.loads(made.scripts["volumes-0"])["image"])) > 200


def test_models_are_drawn_side_by_side(tmp_path: Path) -> None:
    predictions, references, _ = write_masks(tmp_path, 3)
    report = evaluate(match_files(predictions, references).pairs, TWO)
    origin = Origin(prediction=predictions, reference=references)
    reports = [replace(report, origin=origin, name=name) for name in ("a", "b")]
    made = parsed(*reports, folder=tmp_path)
    assert sum(tag == "img" for tag, _ in made.tags) == 3 * 2
    assert [tag for tag, facts in made.tags if facts.get("class") == "case"] == ["article"] * 3


def test_groups_of_cases_are_shown(tmp_path: Path) -> None:
    values = {case: {"site": "NS"[number % 2]} for number, case in enumerate(IDS)}
    table = Subgroups(path=tmp_path / "s.csv", names=("site",), values=values)
    made = parsed(made_up(IDS, lesions=()), folder=tmp_path, subgroups=table)
    assert "P values are adjusted by Holm for m = 4 tests." in made.words
    assert made.rows["groups"] == 2 * 2 * 2 + 3 * 2 * 2  # by site, and by thirds of either label's volume
    assert "site" in made.words


def test_reports_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels"):
        page.write([made_up(IDS, labels=ONE), made_up(IDS, labels=TWO)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_of_many_labels_that_differ_the_error_lists_some(tmp_path: Path) -> None:
    many = Labels(foreground=tuple(Label(name=f"organ_{value}", values=(value,)) for value in range(1, 61)))
    with pytest.raises(DataError, match=r"organ_15 = 15.* and 52 more; evaluate both") as told:
        page.write([made_up(IDS, labels=ONE), made_up(IDS, labels=many)], tmp_path / "page.html")
    assert len(str(told.value)) < 500


def test_definitions_stand_once_below_the_results_for_paper_and_phones(single: Parsed) -> None:
    words = single.words
    assert words.count("Definitions by: Dice: ") == 1
    style = single.source[single.source.index("@media print") :]
    assert "#sums :is(th, td):last-child { display: none; }" in style
    assert ".by { display: block; }" in style


def test_a_page_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one report"):
        page.write([], tmp_path / "page.html")


def test_niivue_is_embedded_where_it_is_installed_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions, references, _ = write_masks(tmp_path, 1)
    report = evaluate(match_files(predictions, references).pairs, TWO)
    report = replace(report, origin=Origin(prediction=predictions, reference=references))
    package = tmp_path / "site" / viewer.PACKAGE
    (package / "static").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('is not to be imported')")
    (package / "static" / "widget.js").write_text("export default {};")
    facts = tmp_path / "site" / f"{viewer.PACKAGE}-9.8.7.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {viewer.PACKAGE}\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    viewer.niivue.cache_clear()
    try:
        made = Parsed(page.write([report], tmp_path / "with.html").read_text())
    finally:
        viewer.niivue.cache_clear()
    assert unpacked(made.scripts["niivue"]) == b"export default {};"
    assert "ipyniivue 9.8.7" in made.words
    assert "data-mode" in made.source
    assert "niivue" not in Parsed(page.write([report], tmp_path / "o.html", viewer="slices").read_text()).scripts


def test_page_is_known_as_ours_and_viewers_that_must_be_there_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "niivue", lambda: None)
    assert page.is_page(page.write([made_up(IDS)], tmp_path / "a.html", title="x" * 5000))
    (tmp_path / "b.html").write_text("<!doctype html><title>medmamba</title>")
    assert not page.is_page(tmp_path / "b.html")
    with pytest.raises(MachineError, match=r'run pip install "medmamba\[viewer\]"'):
        page.write([made_up(IDS)], tmp_path / "a.html", viewer="3d")


def test_words_stand_out_from_their_ground_in_every_theme() -> None:
    style = (Path(page.__file__).parent / "templates" / "style.css").read_text()
    themes = re.findall(r"--ground: [^}]*?color-scheme", style)
    assert len(themes) == 4  # light, dark by choice, dark by preference, paper
    for theme in themes:
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]+);", theme))
        for ink in ("ink", "soft", "accent", "bad"):
            for ground in ("ground", "sheet", "tint"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for number in range(6):  # lines and points
            assert contrast(colours[f"c{number}"], colours["sheet"]) >= 3


def contrast(one: str, other: str) -> float:
    """By WCAG 2.1."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_of_many_labels_the_plot_at_a_glance_shows_the_worst(tmp_path: Path) -> None:
    labels = Labels(foreground=tuple(Label(name=f"organ_{value}", values=(value,)) for value in range(1, 31)))
    report = made_up(IDS[:5], labels=labels, metrics=("dice",), lesions=())
    made = parsed(report, folder=tmp_path)
    means = {each.label: each.mean for each in report.summaries}
    plot = made.source[made.source.index('aria-label="Mean Dice"') :]
    shown = re.findall(r'class="name"[^>]*>(organ_\d+)<', plot[: plot.index("</svg>")])
    assert len(shown) == 12
    assert set(shown) == set(sorted(set(means) - {"mean over labels"}, key=means.__getitem__)[:12])
    assert "The worst 12 of 30 labels" in made.words
    assert "skip" in made.attributes("class")
    assert "after-cases-table" in made.attributes("id")


@pytest.mark.slow
def test_many_cases_labels_and_metrics_stay_usable(tmp_path: Path) -> None:
    labels = Labels(foreground=tuple(Label(name=f"organ_{value}", values=(value,)) for value in range(1, 9)))
    metrics = ("dice", "hd95", *(f"nsd_{number}mm" for number in range(1, 19)))
    report = made_up([f"c{number:03d}" for number in range(300)], labels=labels, metrics=metrics, lesions=())
    made = parsed(report, folder=tmp_path)
    assert made.rows["cases-table"] == 300 * 8
    assert len(made.source) < 8e6
    assert made.source.count("<circle") < 20_000
