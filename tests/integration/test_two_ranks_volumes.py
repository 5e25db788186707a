"""Two gloo ranks compute what one would: contrast of views, opposite sentences, and organs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoded import SIZES, batch, encodings

from medvlp.data.batch import TokenIds
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.losses.gather import contrast_views
from medvlp.losses.opposite_sentence import OppositeSentenceConfig
from medvlp_volumetric.losses.organs import contrast_organs

HERE = Path(__file__).parent
SCRIPT = """
import sys
import torch
import torch.distributed as dist
from test_two_ranks_volumes import terms

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
found = terms(slice(0, 2) if rank == 0 else slice(2, 6))
for value in found.values():
    dist.all_reduce(value)
if rank == 0:
    torch.save({name: value / 2 for name, value in found.items()}, f"{folder}/two.pt")
dist.destroy_process_group()
"""


def terms(rows: slice) -> dict[str, torch.Tensor]:
    """Views, opposite sentences and organs of some of six samples, with their gradients."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    contrast = contrast_views(*views[:, rows], 2.0)
    (grad,) = torch.autograd.grad(contrast, views)
    found = {"contrast": torch.cat([contrast[None], grad.flatten()])}
    names = SIZES.labels
    labels = {name: Prompts(positive=(name,), negative=(f"no {name}",)) for name in names}
    texts = [text for one in labels.values() for text in (*one.positive, *one.negative)]
    space = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def encode(asked: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[texts.index(text)] for text in asked])
        return ids, torch.ones_like(ids, dtype=torch.bool)

    sizes = dataclasses.replace(
        SIZES,
        prompts=PromptSet(mode="independent", labels=labels),
        tokens=TokenIds(count=6, mask=None, special=(), encode=encode),
    )
    nan = float("nan")
    known = [[1.0, 0, nan], [nan, 1, 0], [nan] * 3, [0, nan, -1], [1, nan, 1], [nan, 0, nan]]
    data = dataclasses.replace(
        batch(6, 1, labels=known), patient_B=torch.tensor([0, 1, 1, 2, 3, 3])
    ).part(rows)
    one = dataclasses.replace(encodings(6, 1), embed=lambda ids, _: space[ids[:, 0]])
    loss = OppositeSentenceConfig(unknown="others").build(sizes)(
        one.rows(torch.arange(6)[rows]), data
    )
    grads = torch.autograd.grad(loss, [one.image_BE, one.scale, space])
    found["sentences"] = torch.cat([loss[None], *(grad.flatten() for grad in grads)])
    seen = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    # The second organ is in view on one rank alone, the third nowhere told apart, the last nowhere.
    groups = torch.tensor(
        [
            [0, -1, 4, -1],
            [5, -1, 4, -1],
            [0, 3, -1, -1],
            [7, 9, 4, -1],
            [5, -1, 4, -1],
            [8, 3, 4, -1],
        ]
    )
    for name, patients in (
        ("organs", None),
        ("organs, patients", torch.tensor([0, 1, 1, 2, 0, 3])),
    ):
        loss = contrast_organs(
            *torch.nn.functional.normalize(seen, dim=3)[:, rows], groups[rows], scale,
            patient_B=None if patients is None else patients[rows],
        )  # fmt: skip
        grads = torch.autograd.grad(loss, [seen, scale])
        found[name] = torch.cat([loss[None], *(grad.flatten() for grad in grads)])
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    places = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        )
        for rank in range(2)
    ]
    one = terms(slice(0, 6))
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    for name, value in one.items():
        assert value[0] > 0
        torch.testing.assert_close(two[name], value, msg=name)
