"""Published sets with phases: each miniature becomes a manifest whose every number is known."""

import json
import pickle  # noqa: TID251 - what the set is published in; nothing here unpickles
from pathlib import Path

import pytest
from minifilms import film, frames, known, texts, timed
from minisets import Indexed, write

from medvlp.archive.duplicates.across import compare_manifests
from medvlp.config import read_yaml
from medvlp.data.items import window_items
from medvlp.data.keys import KEY
from medvlp.errors import ConfigError, ManifestError
from medvlp_video.sets import autolaparo, cataract_1k, cholec80, cholect50, multibypass140
from medvlp_video.sets.label_files import split_by_number

PROTOCOLS = Path(__file__).parents[2] / "configs" / "evaluate" / "video"


def asked(name):
    """What a protocol asks for."""
    task = read_yaml(PROTOCOLS / f"{name}.yaml")["task"]
    return list(read_yaml(PROTOCOLS / task["prompts"])["labels"])


def answered(found, name, split):
    """Label -> windows of a second that a protocol scores, as they have one of its labels."""
    names = asked(name)
    items = window_items(found.manifest, split, 1, 1, names)
    told = [names[item.labels_L.argmax()] for item in items if (item.labels_L == 1).sum() == 1]
    return {label: told.count(label) for label in dict.fromkeys(told)}


@pytest.fixture(scope="module")
def c80(tmp_path_factory):
    """A video with all phases, frames numbered from 1 and from 0, and PeskaVLP's table."""
    folder = tmp_path_factory.mktemp("c80")
    root = folder / "cholec80"
    film(root / "videos/video49.mp4", 40)
    write(root / "videos/video49-timestamp.txt", "x")
    # Five seconds a phase, 25 lines a second; the last phase runs beyond the film.
    lines = [f"{n}\t{cholec80.PHASES[min(n // 125, 6)]}" for n in range(45 * 25)]
    lines[3] = "3\tLunch"
    write(root / "phase_annotations/video49-phase.txt", "\n".join(["Frame\tPhase", *lines]))
    head = "\t".join(["Frame", *cholec80.TOOLS])
    rows = [f"{n * 25}\t{int(n < 3)}\t0\t{int(n in (1, 2, 4))}\t0\t0\t0\t1" for n in range(5)]
    write(root / "tool_annotations/video49-tool.txt", "\n".join([head, *rows, "125\t2\t0"]))
    frames(root / "frames/video01", (1, 40), "video01_{:06d}.png")
    table = [f"video01_{n}.png,{1 if n < 10 else 2}" for n in range(40)]
    write(root / "csvs/video01.csv", "\n".join(["path,label", *table]))
    frames(root / "frames/video02", (0, 39))
    write(root / "csvs/video02.csv", "\n".join(["path,label", *table]))
    frames(root / "frames/video41", (1, 2000))
    write(root / "csvs/video41.csv", "\n".join(["path,label", *table]))
    write(root / "csvs/video42.csv", "\n".join(["path,label", *table]))
    film(root / "videos/video43.mp4")
    film(root / "videos/intro.mp4")
    return Indexed(root, "cholec80", folder / "m")


VIDEO, ONE, TWO = (
    "videos/video49.mp4",
    "frames/video01/video01_000001.png",
    "frames/video02/000000.png",
)


def test_cholec80_frames_of_a_phase_file_become_seconds(c80):
    phases = [row for row in timed(c80, VIDEO) if row[0].startswith("phase:")]
    # The line that names no phase leaves a gap of one frame.
    assert phases == [
        ("phase:Preparation", 0, 3 / 25),
        ("phase:Preparation", 4 / 25, 5),
        ("phase:CalotTriangleDissection", 5, 10),
        ("phase:ClippingCutting", 10, 15),
        ("phase:GallbladderDissection", 15, 20),
        ("phase:GallbladderPackaging", 20, 25),
        ("phase:CleaningCoagulation", 25, 30),
        ("phase:GallbladderRetraction", 30, 40),
    ]
    tools = [row for row in timed(c80, VIDEO) if row[0].startswith("instrument:")]
    assert tools == [
        ("instrument:grasper", 0, 3),
        ("instrument:specimen_bag", 0, 5),
        ("instrument:hook", 1, 3),
        ("instrument:hook", 4, 5),
    ]
    assert answered(c80, "cholec80-surgvlp-32", "test") == {
        "phase:Preparation": 5, "phase:CalotTriangleDissection": 5, "phase:ClippingCutting": 5,
        "phase:GallbladderDissection": 5, "phase:GallbladderPackaging": 5,
        "phase:CleaningCoagulation": 5, "phase:GallbladderRetraction": 10,
    }  # fmt: skip
    assert ("phase", "synthetic:labels", 5.0, 10.0, "Calot triangle dissection.") in texts(
        c80, VIDEO
    )


def test_cholec80_frames_count_from_1_or_from_0_and_phases_of_the_tables_from_1(c80):
    # Frame n of a folder that begins at 1 shows second n - 1; on its own time line it stands at n.
    assert timed(c80, ONE) == [
        ("phase:Preparation", 1, 11), ("phase:CalotTriangleDissection", 11, 41),
    ]  # fmt: skip
    assert timed(c80, TWO) == [
        ("phase:Preparation", 0, 10), ("phase:CalotTriangleDissection", 10, 40),
    ]  # fmt: skip


def test_cholec80_accounts_for_all(c80):
    assert set(c80.samples) == {VIDEO, ONE, TWO, "videos/video43.mp4"}
    splits = {name: row[0] for name, row in c80.columns("source_split").items()}
    assert splits == {VIDEO: "test", ONE: "train", TWO: "train", "videos/video43.mp4": "valid"}
    assert c80.codes == sorted([
        ("row", "bad_labels"),  # a phase that is none
        ("row", "bad_labels"),  # a line of tools that ends early
        ("decode", "frame_numbers"),  # 2000 seconds of frames, 40 of labels
        ("decode", "frame_numbers"),
        ("join", "missing_frames"),  # the labels of these frames
        ("join", "missing_frames"),  # labels without frames
        ("join", "no_row"),  # a video that is not of the set
        ("ignored", "not_of_the_set"),  # time stamps
    ])  # fmt: skip
    assert {"patient_is_video", "no_patient_id"} <= set(c80.samples[VIDEO]["flags"])
    assert "no_labels" in c80.samples["videos/video43.mp4"]["flags"]
    assert c80.notes == {"labels_without_frame": 2}  # the last phase, and its sentence


def test_published_numbers_make_splits():
    for name, test in (("surgvlp-32", 49), ("tecno-40", 41)):
        splits = split_by_number(cholec80.SPLITS[name], "video{:02d}")
        assert len(splits) == 80
        assert {n for n, s in splits.items() if s == "test"} == {
            f"video{n}" for n in range(test, 81)
        }
    with pytest.raises(ConfigError, match="videos 3 stand there twice"):
        split_by_number({"train": [3, 4], "test": [3]}, "video{:02d}")
    for fold in ("rendezvous", "fold-1", "fold-5"):
        splits = split_by_number(cholect50.published_split(fold), "VID{:02d}")
        assert len(splits) == 50
        assert list(splits.values()).count("test") == 10
        assert list(splits.values()).count("valid") == 5
    assert cholect50.published_split("fold-1")["valid"] == [1, 56, 4, 13, 92]


def test_autolaparo_seconds_begin_where_its_frames_begin_at_1(tmp_path):
    root = tmp_path / "AutoLaparo_Task1"
    frames(root / "frames/15", (1, 35))
    lines = [f"{n + 1}\t{n // 5 + 1}" for n in range(35)]
    write(root / "labels/label_15.txt", "\n".join(["Frame\tPhase", *lines, "36\t8"]))
    write(root / "labels/label_16.txt", "no header\n1\t1\n")
    frames(root / "frames/16", (0, 11))
    film(root / "Task 2 Laparoscope motion prediction/clips/001.mp4")
    found = Indexed(root, "autolaparo", tmp_path / "m")
    expected = [
        (f"phase:{name}", 5.0 * n + 1, 5.0 * n + 6) for n, name in enumerate(autolaparo.PHASES)
    ]
    assert timed(found, "frames/15/000001.png") == expected
    assert answered(found, "autolaparo", "test") == {f"phase:{n}": 5 for n in autolaparo.PHASES}
    assert found.codes == [("ignored", "not_read"), ("read", "bad_labels"), ("row", "bad_labels")]
    assert {"no_labels", "rows_refused"} <= set(found.samples["frames/16/000000.png"]["flags"])


def rows(name, labels, start=0):
    """Seconds of one video as MultiBypass140's pickles have them: (phase, step) each."""
    return [
        {"Frame_id": f"{name}_{n + 1:08d}", "Original_frame_id": n, "Phase_gt": phase,
         "Step_gt": step, "unique_id": 10**8 + n}
        for n, (phase, step) in enumerate(labels, start)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bypass(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bypass")
    root = folder / "MultiBypass140"
    place = root / "labels/bern/labels_by70_splits"
    every = [(n // 3, n % 46) for n in range(36)]
    for part, name, values in (
        (
            "test",
            "1fps_0",
            {"BBP01": rows("BBP01", every, start=2), "BBP02": rows("BBP02", [(0, 1)] * 9)},
        ),
        ("val", "1fps_0", {"BBP03": rows("BBP03", [(3, 4)] * 5)}),
        ("train", "1fps_100_0", {"BBP04": rows("BBP04", [(3, 4)] * 5)}),
        ("train", "1fps_100_1", {"BBP01": rows("BBP01", every)}),
    ):
        target = place / "labels" / part / f"{name}.pickle"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pickle.dumps(values, protocol=4))
    frames(root / "frames/BBP01", (1, 40), "BBP01_{:08d}.jpg")
    frames(place / "frames/BBP02", (1, 9), "BBP02_{:08d}.jpg")
    frames(root / "frames/SBP01", (1, 20), "img{}.jpg")
    spans = {
        "phases": [
            {"start": 0, "end": 5400, "label_name": "preparation", "label_id": 0},
            {"start": 1000, "end": 2000, "label_name": "out_of_body", "label_id": 12},
            {"start": 9000, "end": 5400, "label_name": "omentum_division", "label_id": 2},
        ],
        "steps": [{"start": 500, "end": 5400, "label_name": "s1_x", "label_id": 1}],
    }
    write(root / "labels/strasbourg/labels_by70/SBP01.mp4.json", json.dumps(spans))
    write(root / "labels/bern/labels_by70/BBP01.mp4.json", json.dumps(spans))
    return Indexed(root, "multibypass140", folder / "m")


BBP01 = "frames/BBP01/BBP01_00000001.jpg"
BBP02 = "labels/bern/labels_by70_splits/frames/BBP02/BBP02_00000001.jpg"
SBP01 = "frames/SBP01/img1.jpg"


def test_multibypass_takes_the_seconds_of_a_fold_and_what_lies_across_them(bypass):
    phases = [row for row in timed(bypass, BBP01) if row[0].startswith("phase:")]
    assert phases == [
        (f"phase:{name}", 3.0 * n + 3, 3.0 * n + 6) for n, name in enumerate(multibypass140.PHASES)
    ]
    steps = [row for row in timed(bypass, BBP01) if row[0].startswith("step:")]
    assert (len(steps), steps[1]) == (36, ("step:cavity_exploration", 4, 5))
    assert ("event:out_of_body", 2, 3) in timed(bypass, BBP01)
    # A recording that no list names is split by the manifest's own key.
    beside = 5 if bypass.columns("split", "site")[SBP01][0] == "test" else 0
    assert answered(bypass, "multibypass140-bern", "test") == {
        name: 3 + (9 + beside) * (name == "phase:Preparation")
        for name in asked("multibypass140-bern")
    }
    # The frame 1 shows second 0.
    assert timed(bypass, BBP02) == [
        ("phase:Preparation", 1, 10),
        ("step:cavity_exploration", 1, 10),
    ]
    assert bypass.columns("source_split", "site") == {
        BBP01: ("test", "Bern"), BBP02: ("test", "Bern"), SBP01: (None, "Strasbourg"),
    }  # fmt: skip


def test_multibypass_spans_are_taken_where_no_fold_tells_of_the_video(bypass):
    assert timed(bypass, SBP01) == [
        ("phase:Preparation", 1, 6.4), ("step:cavity_exploration", 1.5, 6.4),
        ("event:out_of_body", 2, 3),
    ]  # fmt: skip
    assert bypass.codes == sorted([
        ("ignored", "not_selected"),  # another fold
        ("row", "inverted_span"),
    ])  # fmt: skip
    assert bypass.notes["recordings_without_video"] == 2


def grasp_labels(case, numbers, first=0):
    phases, steps = asked("grasp-phases"), asked("grasp-steps")
    images, marks = [], []
    for place, number in enumerate(numbers):
        image = {"id": first + place, "file_name": f"{case}/{number:09d}.jpg", "video_name": case,
                 "frame_num": number, "width": 16, "height": 16}  # fmt: skip
        images.append(image)
        marks.append({"id": first + place, "image_id": first + place, "image_name": "not looked at",
                      "phases": place % len(phases), "steps": place % len(steps)})  # fmt: skip
    named = lambda kind, names: [  # noqa: E731
        {"id": i, "name": n.partition(":")[2], "supercategory": kind} for i, n in enumerate(names)
    ]
    return {"phases_categories": named("phase", phases), "steps_categories": named("step", steps),
            "images": images, "annotations": marks}  # fmt: skip


def test_grasp_frames_are_a_second_apart_whatever_their_numbers(tmp_path):
    root = tmp_path / "GraSP"
    numbers = [45 * n + (n == 2) for n in range(21)]  # in some cases not quite even
    frames(root / "frames/CASE041", (0, 944), "{:09d}.jpg")
    frames(root / "frames/CASE002", (0, 5), "{:05d}.jpg")
    frames(root / "annotations/segmentations/CASE041", (15,), "{:09d}.png")
    train = grasp_labels("CASE002", (1, 2, 3))
    labels = {
        "long-term_test": grasp_labels("CASE041", numbers), "long-term_train": train,
        "long-term_fold1": train, "long-term_fold2": train, "short-term_test": {},
    }  # fmt: skip
    for name, values in labels.items():
        write(root / f"annotations/grasp_{name}.json", json.dumps(values))
    found = Indexed(root, "grasp", tmp_path / "m", "options.validation=fold1")
    assert answered(found, "grasp-steps", "test") == dict.fromkeys(asked("grasp-steps"), 1)
    phases = answered(found, "grasp-phases", "test")
    assert (phases["phase:Idle"], phases["phase:Bladder_Neck_Rec"]) == (2, 1)
    case = "frames/CASE041/000000000.jpg"
    assert timed(found, case)[2] == ("phase:LPIL", 1, 91 / 45)
    # Numbers that begin at 1 and count seconds.
    other = "frames/CASE002/00000.jpg"
    assert timed(found, other)[0] == ("phase:Idle", 1, 2)
    assert found.columns("source_split") == {case: ("test",), other: ("valid",)}
    assert found.codes == [
        ("ignored", "label_map"), ("ignored", "not_read"), ("ignored", "not_selected"),
    ]  # fmt: skip


def test_cataract_phases_by_their_seconds_or_frames(tmp_path):
    root = tmp_path / "Phase_recognition_dataset"
    frames(root / "frames/case_4687", (0, 39))
    frames(root / "frames/case_5013", (0, 9))
    names = [n.replace("Polishing", "Pulishing").replace("Viscoelastic S", "Viscoelastic_S")
             .replace("Lens P", "Lens p") for n in cataract_1k.PHASES]  # fmt: skip
    lines = [
        f"4687,{name},{n * 180},{n * 180 + 120},{n * 3},{n * 3 + 2}" for n, name in enumerate(names)
    ]
    head = "caseId,comment,frame,endFrame,sec,endSec"
    bad = ["4687,Lunch,1,2,1,2", "4687,Incision,1,2,9,8", "4687,Incision,1,2,70,80"]
    notes = root / "annotations"
    write(notes / "case_4687/case_4687_annotations_phases.csv", "\n".join([head, *lines, *bad]))
    write(notes / "case_5013/case_5013_annotations_phases.csv", f"{head}\n5013,Incision,60,120,,\n")
    write(notes / "case_5013/case_5013_video.csv", "a,b,c,d,fps\n1,2,3,4,59.94\n")
    write(notes / "case_9/case_9_annotations_phases.csv", f"{head}\n9,Incision,60,120,1,2\n")
    found = Indexed(
        root,
        "cataract-1k",
        tmp_path / "m",
        "split.policy=hash",
        "split.fractions={train: 0, valid: 0, test: 1}",
    )
    assert known(found.manifest, "phase") == {*asked("cataract-1k")}
    assert timed(found, "frames/case_4687/000000.png")[6] == ("phase:Capsule Polishing", 18, 20)
    assert timed(found, "frames/case_5013/000000.png") == [
        ("phase:Incision", 60 / 59.94, 120 / 59.94)
    ]
    assert answered(found, "cataract-1k", "test")["phase:Tonifying/Antibiotics"] == 2
    assert found.codes == [
        ("join", "missing_frames"), ("row", "bad_labels"), ("row", "inverted_span"),
        ("row", "span_outside"),
    ]  # fmt: skip
    assert "rows_refused" in found.samples["frames/case_4687/000000.png"]["flags"]


def test_cholect50_in_its_older_release(c80, tmp_path):
    root = tmp_path / "CholecT45"
    frames(root / "data/VID01", range(4))
    parts = {
        "triplet": ("hook,dissect,gallbladder", "grasper,null_verb,null_target"),
        "instrument": ("grasper", "hook"),
        "verb": ("dissect", "null_verb"),
        "target": ("gallbladder", "null_target"),
    }
    told = {"triplet": "10 10 01 00", "instrument": "01 01 10 10", "verb": "10 01 01 00",
            "target": "10 10 01 00"}  # fmt: skip
    for part, names in parts.items():
        write(root / f"dict/{part}.txt", "\n".join(f"{n}:{name}" for n, name in enumerate(names)))
        lines = [f"{n},{','.join(cells)}" for n, cells in enumerate(told[part].split())]
        write(root / f"{part}/VID01.txt", "\n".join(lines))
    write(root / "dict/maps.txt", "0,1,0,0,2,15")
    frames(root / "data/VID02", range(2))
    write(root / "triplet/VID02.txt", "0,1,0\n")
    key = c80.manifest.private / KEY
    found = Indexed(root, "cholect50", tmp_path / "m", "options.splits={test: [1, 2]}", key=key)
    assert timed(found, "data/VID01/000000.png") == [
        ("instrument:hook", 0, 2), ("triplet:hook,dissect,gallbladder", 0, 2),
        ("triplet:grasper,null_verb,null_target", 2, 3), ("instrument:grasper", 2, 4),
    ]  # fmt: skip
    assert ("clip", "synthetic:labels", 2.0, 3.0, "The grasper is in view.") in texts(
        found, "data/VID01/000000.png"
    )
    assert found.notes == {"components_disagree": 1}
    assert found.codes == [("ignored", "not_of_the_set"), ("read", "bad_labels")]
    # VID01 is Cholec80's video 1, whatever the files, and so are its patients: one key tells.
    people = {row["patient"] for row in found.samples.values()}
    assert people == {c80.samples[name]["patient"] for name in (ONE, TWO)}
    with pytest.raises(ManifestError, match="2 patients stand in two splits"):
        compare_manifests([c80.manifest.path, found.manifest.path])


def test_labels_of_every_set_fit_the_protocols_that_ask_for_them(bypass, c80):
    assert known(c80.manifest, "phase") == {*asked("cholec80-tecno-40")}
    assert known(bypass.manifest, "phase") == {*asked("multibypass140-strasbourg")}
    assert {*asked("cholect50-tools")} <= {f"instrument:{name}" for name in cholec80.INSTRUMENTS}
    assert len({*multibypass140.STEPS}) == 46
