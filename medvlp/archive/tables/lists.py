"""Lists of image names that say which split an image is in, as papers and benchmarks ship them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare
from medvlp.archive.tables.tablefile import table_text
from medvlp.config import STRICT
from medvlp.errors import ArchiveError

IN_NO_LIST = "in_no_list"

_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".nii.gz", ".nii", ".npz", ".npy",
    ".mp4", ".mkv", ".mov", ".avi", ".webm",
)  # fmt: skip

_NAMES = {"train": ("train",), "valid": ("val", "valid", "validate"), "test": ("test",)}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ListOptions:
    """Settings of every set whose split the user may bring."""

    lists: Path | None = None
    """A folder with ``train.txt``, ``val.txt`` and ``test.txt``: an image's name at the head of
    each line (folders before it, the ending of an image, and words after it are passed over).
    They take the place of the set's own split."""


class SplitLists:
    """The user's lists; without any, no image is in one.

    Args:
        intake: Lines that repeat a name are listed as refused.
        folder: Where the lists are, if there are any.
        published: Lines of each list, where a paper tells; noted where these differ.

    Raises:
        ArchiveError: The folder holds no list, or one name stands in two of them.
    """

    def __init__(
        self, intake: Intake, folder: Path | None, published: Mapping[str, int] | None = None
    ) -> None:
        self._intake = intake
        self._given = folder is not None
        self._split: dict[str, str] = {}
        self._found: set[str] = set()
        if folder is None:
            return
        place = intake.locate(folder)
        for split, names in _NAMES.items():
            for path in (place / f"{name}.txt" for name in names):
                if path.is_file():
                    self._load(path, split)
        if not self._split:
            raise ArchiveError(
                f"the folder {folder.name} holds none of train.txt, val.txt and test.txt",
                remedy="name the folder of the lists in options.lists",
            )
        sizes = Counter(self._split.values())
        for split, size in (published or {}).items():
            compare(intake, f"list_{split}", sizes[split], size)
        intake.at_finish(self._close)

    def of(self, image: Path) -> str | None:
        """The split of an image that is taken in."""
        name = _bare(image.name)
        if name in self._split:
            self._found.add(name)
        return self._split.get(name)

    def columns(self, image: Path, own: str | None = None) -> tuple[str | None, tuple[str, ...]]:
        """Source split and flags of an image whose split in the set itself is `own`."""
        if not self._given:
            return own, ()
        split = self.of(image)
        return split, () if split else (IN_NO_LIST,)

    def _load(self, path: Path, split: str) -> None:
        self._intake.cover([path])
        seen: set[str] = set()
        elsewhere = 0
        for number, line in enumerate(table_text(path).splitlines(), start=1):
            name = _bare(line.split()[0]) if line.strip() else ""
            if name in seen:
                self._intake.reject_row(path, number, "duplicate_row")
            elif name:
                seen.add(name)
                elsewhere += self._split.setdefault(name, split) != split
        if elsewhere:
            raise ArchiveError(
                f"{elsewhere} names of {path.name} stand in another list as well",
                remedy="give lists in which each image stands once",
            )

    def _close(self) -> None:
        missing = len(self._split) - len(self._found)
        if missing:
            self._intake.notes["listed_without_image"] += missing


def _bare(path: str) -> str:
    """The name without folders and without the ending of an image; other dots stay."""
    name = path.replace("\\", "/").rpartition("/")[2]
    ending = next((end for end in _ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]
