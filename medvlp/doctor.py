"""The machine's health: what this installation can and cannot do, and how to mend it.

Decoders are tried on tiny samples made here, because a package that imports may still not decode.
"""

from __future__ import annotations

import base64
import io
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medvlp.progress import track

DISTRIBUTION = "medvlp-platform"
MALICIOUS = {"2.6.2", "2.6.3"}
"""Releases of lightning and pytorch-lightning that stole credentials (GHSA-w37p-236h-pfx3)."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# An 8x8 ramp; neither format has an encoder among the packages that this project installs.
_HTJ2K = (
    "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB"
    "/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAFcAAf+TwAAmb/wFB3QA"
    "AADAABLAABKAjgIHdACOAgd0AMAAE0AAEwDAwAGCdADAgQBjVADAACpgABVARqPR+KpxAnUAxkaj8cAhAey2AP/Z"
)
_JPEG_LOSSLESS = (
    "/9j/xAAWAAEBAQAAAAAAAAAAAAAAAAAGBwz/wwALDAAIAAgBABEA/9oACAEAAAYAAM//AGSyWSyWSyWSyMmTJkyZMrIy"
    "ZMmTJkysjJkyZMmTKyMmTJkyZMrIyZMmTJkysjJkyZMmTKyMmTJkyZMg/9k="
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the examination."""

    what: str
    state: Literal["ok", "optional", "bad"]
    """``optional``: something is missing that most work does not need."""

    detail: str
    remedy: str = ""
    """The command or step that mends it; empty where nothing is to be mended."""


def examine(console: Console) -> bool:
    """Print what this machine has and lacks.

    Returns:
        Whether everything that medvlp needs is there and works.
    """
    findings = [f for check in track(CHECKS, "examining") for f in check()]
    table = Table("", "what", "found", "how to mend it", title="medvlp doctor")
    marks = {"ok": "[green]ok[/]", "optional": "[yellow]--[/]", "bad": "[bold red]BAD[/]"}
    for f in findings:
        table.add_row(marks[f.state], escape(f.what), escape(f.detail), escape(f.remedy))
    console.print(table)
    bad = [f.what for f in findings if f.state == "bad"]
    console.print(f"to mend: {', '.join(bad)}" if bad else "all that is needed works")
    return not bad


def check_python() -> Iterator[Finding]:
    """Python's version and the system that it runs on."""
    new_enough = sys.version_info >= (3, 11)
    yield Finding(
        what="Python",
        state="ok" if new_enough else "bad",
        detail=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        remedy="" if new_enough else "install Python 3.11 or newer, then: rm -rf .venv && make",
    )


def check_packages() -> Iterator[Finding]:
    """Required packages against the project's ranges and, in a checkout, its exact pins."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        remedy = "pip install -c constraints.txt -e ."
        yield Finding(what=DISTRIBUTION, state="bad", detail="not installed", remedy=remedy)
        return
    pins = read_pins(Path(__file__).resolve().parents[1] / "constraints.txt")
    found = [check_package(Requirement(line), pins) for line in lines if wanted(line)]
    yield from (f for f in found if f.state != "ok")
    good = sum(f.state == "ok" for f in found)
    yield Finding(what="packages", state="ok", detail=f"{good} of {len(found)} as pinned")


def wanted(line: str) -> bool:
    """Whether a requirement belongs to this machine and to no optional extra."""
    marker = Requirement(line).marker
    return marker is None or marker.evaluate({"extra": ""})


def read_pins(path: Path) -> dict[str, str]:
    """``name -> version`` of a constraints file; empty where there is none."""
    if not path.is_file():
        return {}
    pairs = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-"): pinned for name, pinned in pairs}


def check_package(requirement: Requirement, pins: dict[str, str]) -> Finding:
    """One required package: present, within the range, and the pinned version."""
    name = requirement.name
    pinned = pins.get(name.lower().replace("_", "-"))
    remedy = f"pip install '{name}=={pinned}'" if pinned else f"pip install '{requirement}'"
    try:
        have = version(name).partition("+")[0]
    except PackageNotFoundError:
        return Finding(what=name, state="bad", detail="missing", remedy=remedy)
    if not requirement.specifier.contains(have, prereleases=True):
        detail = f"{have}, needs {requirement.specifier}"
        return Finding(what=name, state="bad", detail=detail, remedy=remedy)
    if pinned and have != pinned:
        detail = f"{have}, tested with {pinned}"
        return Finding(what=name, state="optional", detail=detail, remedy=remedy)
    return Finding(what=name, state="ok", detail=have)


def check_forbidden() -> Iterator[Finding]:
    """Packages that must not be here: torchvision, and releases that carried malware."""
    present = find_spec("torchvision") is not None
    yield Finding(
        what="torchvision",
        state="bad" if present else "ok",
        detail="installed: transformers breaks beside a mismatched one" if present else "absent",
        remedy="pip uninstall torchvision" if present else "",
    )
    for name in ("lightning", "pytorch-lightning"):
        yield from check_malicious(name)


def check_malicious(name: str) -> Iterator[Finding]:
    """One finding if the installed release of `name` is a malicious one."""
    try:
        have = version(name)
    except PackageNotFoundError:
        return
    if have in MALICIOUS:
        yield Finding(
            what=name,
            state="bad",
            detail=f"{have} is a malicious release that stole credentials",
            remedy="pip uninstall it, change every secret of this machine, then install 2.6.6",
        )


def check_devices() -> Iterator[Finding]:
    """What torch computes on."""
    try:
        import torch
    except Exception as error:
        remedy = "pip install 'torch==2.13.0' --force-reinstall"
        yield Finding(what="torch", state="bad", detail=type(error).__name__, remedy=remedy)
        return
    yield Finding(
        what="torch", state="ok", detail=f"{torch.__version__}, {torch.get_num_threads()} threads"
    )
    for i in range(torch.cuda.device_count()):
        gib = torch.cuda.get_device_properties(i).total_memory / 2**30
        name = torch.cuda.get_device_name(i)
        yield Finding(what=f"GPU {i}", state="ok", detail=f"{name}, {gib:.0f} GiB")
    if not torch.cuda.is_available():
        has_card = shutil.which("nvidia-smi") is not None
        yield Finding(
            what="GPU",
            state="optional",
            detail="torch sees none" + (", though a driver is installed" if has_card else ""),
            remedy="install the CUDA build of torch (README, Install)" if has_card else "",
        )


def sample_dicom(
    syntax: str, *, size: int, step: int, frame: bytes | None = None, bits: int = 16
) -> tuple[Any, NDArray[np.int64]]:
    """A made-up one-frame data set in a transfer syntax, and the pixels that it must decode to."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ExplicitVRLittleEndian

    ramp = np.add.outer(np.arange(size), np.arange(size)) * step
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax) if frame else ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    data.Rows = data.Columns = size
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, min(bits, 12), min(bits, 12) - 1
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    if frame:
        data.PixelData = encapsulate([frame])
        data["PixelData"].VR = "OB"
    else:
        data.PixelData = ramp.astype("<u2").tobytes()
        if syntax != ExplicitVRLittleEndian:
            data.compress(syntax)
    return data, ramp


def baseline_jpeg() -> bytes:
    """An 8-bit ramp of 8x8 as a baseline JPEG."""
    from PIL import Image

    ramp = (np.add.outer(np.arange(8), np.arange(8)) * 8).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "jpeg", quality=98)
    return buffer.getvalue()


def _sample_of(name: str) -> tuple[Any, NDArray[np.int64]]:
    from pydicom import uid

    syntax: str = getattr(uid, name)
    if name == "HTJ2KLossless":
        return sample_dicom(syntax, size=8, step=100, frame=base64.b64decode(_HTJ2K))
    if name == "JPEGLosslessSV1":
        return sample_dicom(syntax, size=8, step=100, frame=base64.b64decode(_JPEG_LOSSLESS))
    if name == "JPEGBaseline8Bit":
        return sample_dicom(syntax, size=8, step=8, frame=baseline_jpeg(), bits=8)
    # JPEG 2000's wavelet levels need more than a few pixels.
    return sample_dicom(syntax, size=64, step=30)


DICOM_PACKAGES = {
    "ExplicitVRLittleEndian": "pydicom",
    "RLELossless": "pylibjpeg-rle",
    "JPEGBaseline8Bit": "pillow",
    "JPEGLosslessSV1": "python-gdcm",
    "JPEGLSLossless": "pyjpegls",
    "JPEG2000Lossless": "pylibjpeg-openjpeg",
    "HTJ2KLossless": "pylibjpeg-openjpeg",
}
"""Transfer syntax (its name in `pydicom.uid`) -> the package that decodes it."""


def check_dicom() -> Iterator[Finding]:
    """Decode a sample of each transfer syntax."""
    for name, package in DICOM_PACKAGES.items():
        try:
            data, expected = _sample_of(name)
            tolerance = 3 if name == "JPEGBaseline8Bit" else 0
            off = int(np.abs(data.pixel_array.astype(np.int64) - expected).max())
            problem = "" if off <= tolerance else f"wrong pixels, by up to {off}"
        except Exception as error:
            problem = type(error).__name__
        yield Finding(
            what=f"DICOM {name}",
            state="bad" if problem else "ok",
            detail=problem or "decodes",
            remedy=f"pip install --force-reinstall {package}" if problem else "",
        )


def write_clip(path: Path, frames: int = 12) -> None:
    """A made-up H.264 clip of 64x64 whose frames differ in brightness."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            picture = np.full((64, 64, 3), 20 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _frames_pyav(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _frames_decord(path: Path) -> int:
    import decord

    return len(decord.VideoReader(str(path)).get_batch(range(12)).asnumpy())


def check_video() -> Iterator[Finding]:
    """Write a clip and read it back with each reader."""
    readers: dict[str, tuple[str, Callable[[Path], int]]] = {
        "PyAV": ("av", _frames_pyav),
        "decord": ("decord", _frames_decord),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (package, read) in readers.items():
            try:
                clip = Path(folder) / "clip.mp4"
                write_clip(clip)
                count = read(clip)
                problem = "" if count == 12 else f"{count} of 12 frames"
            except Exception as error:
                problem = type(error).__name__
            # There is no decord for arm64; PyAV reads every file there.
            needed = package == "av" or platform.machine() in ("x86_64", "AMD64")
            yield Finding(
                what=f"video {name}",
                state=("bad" if needed else "optional") if problem else "ok",
                detail=problem or "reads H.264",
                remedy=f"pip install --force-reinstall {package}" if problem and needed else "",
            )


def check_room() -> Iterator[Finding]:
    """Free disk, and the shared memory through which loader processes hand over batches."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(
        what="disk here",
        state="ok" if free >= 10 else ("optional" if free >= 1 else "bad"),
        detail=f"{free:.1f} GiB free",
        remedy="" if free >= 10 else "make room: caches and runs need some 10 GiB and more",
    )
    shm = Path("/dev/shm")
    if shm.is_dir():
        room = shutil.disk_usage(shm).total / 2**30
        small = room < 1
        yield Finding(
            what="shared memory",
            state="optional" if small else "ok",
            detail=f"{room:.1f} GiB",
            remedy="start the container with --shm-size=8g" if small else "",
        )
    yield Finding(what="processors", state="ok", detail=f"{os.cpu_count()} cores")


def check_extras() -> Iterator[Finding]:
    """What only some work needs."""
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    yield Finding(
        what="Chromium",
        state="ok" if browser else "optional",
        detail=browser or "absent: only the test that opens the report needs it",
        remedy="" if browser else "apt install chromium",
    )
    ray = find_spec("ray") is not None
    yield Finding(
        what="Ray",
        state="ok" if ray else "optional",
        detail="installed" if ray else "absent: only archive work over several machines needs it",
        remedy="" if ray else "pip install -c constraints.txt -e '.[cluster]'",
    )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_forbidden,
    check_devices,
    check_dicom,
    check_video,
    check_room,
    check_extras,
)
