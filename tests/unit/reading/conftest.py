from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.domain import Ref


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reading[Any]]:
    """``hostile(**fields)``: a reading by `misbehaving.read`, which does as the file says."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from misbehaving import Seen

    def reading(**fields: Any) -> Reading[Any]:
        limits = fields.pop("limits", Limits(time_s=30, memory_mb=512))
        fields = {"version": 1, "limits": limits, **fields}
        return Reading(read=Ref("misbehaving:read"), result=Seen, **fields)

    return reading


@pytest.fixture
def files(tmp_path: Path) -> Callable[[Sequence[str]], list[tuple[Path, ...]]]:
    """``files(texts)``: one item for each text, in its own file."""

    def write(texts: Sequence[str]) -> list[tuple[Path, ...]]:
        items = [(tmp_path / f"{number:03d}.txt",) for number in range(len(texts))]
        for (path,), text in zip(items, texts, strict=True):
            path.write_text(text)
        return items

    return write
