"""Published sets with phases: each miniature becomes a manifest whose every number is known."""

import json
import pickle
from pathlib import Path

import polars as pl
import pytest
from minifilms import film, frames, known, texts, timed
from minisets import Indexed, write

from medvlp.errors import ArchiveError, ConfigError
from medvlp.evaluate.cases import timed_items
from medvlp.evaluate.protocol import load_protocol
from medvlp_video.sets import autolaparo, cataract_1k, cholec80, multibypass140

PROTOCOLS = Path(__file__).parents[2] / "configs" / "evaluate" / "video"


def asked(name):
    """What a protocol asks for."""
    return load_protocol(PROTOCOLS / f"{name}.yaml").task.prompts.names


def answered(found, name, split):
    """Label -> windows of a protocol's task that have it."""
    names = asked(name)
    items = timed_items([found.manifest], split, names, window_s=1, stride_s=1)
    counts = {n: sum(item.labels_L[i] == 1 for item in items) for i, n in enumerate(names)}
    return {label: count for label, count in counts.items() if count}


@pytest.fixture(scope="module")
def c80(tmp_path_factory):
    """A video with all phases, frames numbered from 1 and from 0, and PeskaVLP's table."""
    folder = tmp_path_factory.mktemp("c80")
    root = folder / "cholec80"
    film(root / "videos/video49.mp4")
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
    film(root / "videos/video43.mp4", 12)
    film(root / "videos/intro.mp4", 12)
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


def test_cholec80_takes_the_users_split(tmp_path):
    root = tmp_path / "c80"
    for number in (41, 49):
        frames(root / f"video{number}", (0, 9))
    for settings, expected in (
        (["options.split=tecno-40"], ["test", "test"]),
        (["options.splits={train: [41], test: [49]}"], ["train", "test"]),
    ):
        found = Indexed(root, "cholec80", tmp_path / f"m{len(settings[0])}", *settings)
        assert [row[0] for _, row in sorted(found.columns("source_split").items())] == expected
    with pytest.raises(ConfigError, match="videos 3 stand there twice"):
        Indexed(root, "cholec80", tmp_path / "n", "options.splits={train: [3], test: [3]}")


def test_autolaparo_seconds_begin_where_its_frames_begin_at_1(tmp_path):
    root = tmp_path / "AutoLaparo_Task1"
    film(root / "videos/15.mp4", 35)
    lines = [f"{n + 1}\t{n // 5 + 1}" for n in range(35)]
    write(root / "labels/label_15.txt", "\n".join(["Frame\tPhase", *lines, "36\t8"]))
    write(root / "labels/label_16.txt", "no header\n1\t1\n")
    film(root / "videos/16.mp4", 12)
    film(root / "Task 2 Laparoscope motion prediction/clips/001.mp4", 12)
    found = Indexed(root, "autolaparo", tmp_path / "m")
    expected = [(f"phase:{name}", 5.0 * n, 5.0 * n + 5) for n, name in enumerate(autolaparo.PHASES)]
    assert timed(found, "videos/15.mp4") == expected
    assert answered(found, "autolaparo", "test") == {f"phase:{n}": 5 for n in autolaparo.PHASES}
    assert found.codes == [("ignored", "not_read"), ("read", "bad_labels"), ("row", "bad_labels")]
    assert {"no_labels", "rows_refused"} <= set(found.samples["videos/16.mp4"]["flags"])


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
    film(root / "BernBypass70/videos/BBP01.mp4")
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


BBP01, BBP02 = (
    "BernBypass70/videos/BBP01.mp4",
    "labels/bern/labels_by70_splits/frames/BBP02/BBP02_00000001.jpg",
)
SBP01 = "frames/SBP01/img1.jpg"


def test_multibypass_takes_the_seconds_of_a_fold_and_what_lies_across_them(bypass):
    phases = [row for row in timed(bypass, BBP01) if row[0].startswith("phase:")]
    assert phases == [
        (f"phase:{name}", 3.0 * n + 2, 3.0 * n + 5) for n, name in enumerate(multibypass140.PHASES)
    ]
    steps = [row for row in timed(bypass, BBP01) if row[0].startswith("step:")]
    assert (len(steps), steps[1]) == (36, ("step:cavity_exploration", 3, 4))
    assert ("event:out_of_body", 1, 2) in timed(bypass, BBP01)
    assert answered(bypass, "multibypass140-bern", "test") == {
        name: 3 if name != "phase:Preparation" else 3 + 9 for name in asked("multibypass140-bern")
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


def test_multibypass_runs_nothing_that_a_pickle_names(tmp_path):
    root = tmp_path / "MultiBypass140"

    class Program:
        def __reduce__(self):
            return (Path.touch, (root / "ran",))

    for part, values in (("test", {"BBP01": Program()}), ("val", {"BBP01": 3}), ("train", {})):
        target = root / "labels" / part / "1fps_0.pickle"
        target.parent.mkdir(parents=True)
        target.write_bytes(pickle.dumps(values))
    (root / "labels/train/1fps_100_0.pickle").write_bytes(b"\x80\x04}q\x00")
    frames(root / "BBP01", (1, 9))
    found = Indexed(root, "multibypass140", tmp_path / "m", "options.centre=bern")
    assert not (root / "ran").exists()
    assert found.codes == [("read", "bad_labels")] * 2 + [("read", "pickled_code")]
    assert "no_labels" in found.samples["BBP01/000001.png"]["flags"]


def grasp_labels(case, numbers, first=0):
    phases, steps = asked("grasp-phases"), asked("grasp-steps")
    images, marks = [], []
    for place, number in enumerate(numbers):
        image = {"id": first + place, "file_name": f"{case}/{number:09d}.jpg", "video_name": case,
                 "frame_num": number, "width": 16, "height": 16}  # fmt: skip
        images.append(image)
        marks.append({"id": first + place, "image_id": image["id"], "image_name": image["file_name"],
                      "phases": place % len(phases), "steps": place % len(steps)})  # fmt: skip
    named = lambda kind, names: [  # noqa: E731
        {"id": i, "name": n.partition(":")[2], "supercategory": kind} for i, n in enumerate(names)
    ]
    return {"phases_categories": named("phase", phases), "steps_categories": named("step", steps),
            "images": images, "annotations": marks}  # fmt: skip


def test_grasp_frames_are_a_second_apart_whatever_their_numbers(tmp_path):
    root = tmp_path / "GraSP_30fps"
    for case, last in (("CASE041", 21 * 30), ("CASE001", 3 * 45), ("CASE002", 5)):
        frames(root / "frames" / case, (0, last), "{:09d}.jpg")
    frames(root / "annotations/segmentations/CASE041", (15,), "{:09d}.png")
    train = grasp_labels("CASE001", (0, 45, 90))
    other = grasp_labels("CASE002", (1, 2, 3), first=10)
    for key in ("images", "annotations"):
        train[key] += other[key]
    labels = {
        "long-term_test": grasp_labels("CASE041", range(0, 21 * 30, 30)),
        "long-term_train": train, "long-term_fold1": grasp_labels("CASE002", (1, 2, 3)),
        "long-term_fold2": grasp_labels("CASE001", (0, 45, 90)), "short-term_test": {},
    }  # fmt: skip
    for name, values in labels.items():
        write(root / f"annotations/grasp_{name}.json", json.dumps(values))
    found = Indexed(root, "grasp", tmp_path / "m", "options.validation=fold1")
    assert answered(found, "grasp-steps", "test") == dict.fromkeys(asked("grasp-steps"), 1)
    phases = answered(found, "grasp-phases", "test")
    assert (phases["phase:Idle"], phases["phase:Bladder_Neck_Rec"]) == (2, 1)
    # 45 numbers a second; and one a second that begin at 1.
    assert timed(found, "frames/CASE001/000000000.jpg")[:2] == [
        ("phase:Idle", 0, 1),
        ("step:Idle", 0, 1),
    ]
    assert timed(found, "frames/CASE002/000000000.jpg")[0] == ("phase:Idle", 1, 2)
    assert {n: row[0] for n, row in found.columns("source_split").items()} == {
        "frames/CASE041/000000000.jpg": "test", "frames/CASE001/000000000.jpg": "train",
        "frames/CASE002/000000000.jpg": "valid",
    }  # fmt: skip
    assert found.codes == [
        ("ignored", "label_map"), ("ignored", "not_read"), ("ignored", "not_selected"),
    ]  # fmt: skip


def test_cataract_phases_by_their_seconds_or_frames(tmp_path):
    root = tmp_path / "Phase_recognition_dataset"
    film(root / "videos/case_4687.mp4")
    film(root / "videos/case_5013.mp4", 12)
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
    assert timed(found, "videos/case_4687.mp4")[6] == ("phase:Capsule Polishing", 18, 20)
    assert timed(found, "videos/case_5013.mp4") == [("phase:Incision", 60 / 59.94, 120 / 59.94)]
    assert answered(found, "cataract-1k", "test")["phase:Tonifying/Antibiotics"] == 2
    assert found.codes == [
        ("join", "missing_frames"), ("row", "bad_labels"), ("row", "inverted_span"),
        ("row", "span_outside"),
    ]  # fmt: skip
    assert "rows_refused" in found.samples["videos/case_4687.mp4"]["flags"]


def test_cholect50_in_its_older_release(tmp_path):
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
    found = Indexed(root, "cholect50", tmp_path / "m")
    assert timed(found, "data/VID01/000000.png") == [
        ("instrument:hook", 0, 2), ("triplet:hook,dissect,gallbladder", 0, 2),
        ("triplet:grasper,null_verb,null_target", 2, 3), ("instrument:grasper", 2, 4),
    ]  # fmt: skip
    assert ("clip", "synthetic:labels", 2.0, 3.0, "The grasper is in view.") in texts(
        found, "data/VID01/000000.png"
    )
    assert found.notes == {
        "labels_without_frame": 0, "frames_without_label": 0, "components_disagree": 1,
    }  # fmt: skip
    assert found.codes == [("ignored", "not_of_the_set")]
    assert found.columns("source_split") == {"data/VID01/000000.png": ("train",)}


def test_an_older_release_without_names_is_refused(tmp_path):
    root = tmp_path / "CholecT45"
    frames(root / "data/VID01", range(4))
    write(root / "triplet/VID01.txt", "0,1,0\n")
    found = Indexed(root, "cholect50", tmp_path / "m")
    assert found.codes == [("read", "bad_labels")]


def test_labels_of_every_set_fit_the_protocols_that_ask_for_them(bypass, c80):
    assert known(c80.manifest, "phase") == {*asked("cholec80-tecno-40")}
    assert known(bypass.manifest, "phase") == {*asked("multibypass140-strasbourg")}
    assert {*asked("cholect50-tools")} <= {f"instrument:{name}" for name in cholec80.INSTRUMENTS}
    assert pl.Series(list(multibypass140.STEPS)).n_unique() == 46
    with pytest.raises(ArchiveError, match="none of train.txt"):
        Indexed(c80.root, "cholec80", c80.root.parent / "l", f"options.lists={c80.root / 'csvs'}")
