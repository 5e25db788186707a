"""Two gloo ranks compute what one would: losses, gradients, uneven numbers of texts."""

import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from medvlp.losses.gather import contrast_clip, contrast_siglip
from medvlp.losses.ties import Ties
from medvlp.losses.medslip.objective import MedslipConfig
from medvlp.losses.objectives import LabelsConfig
from medvlp.encoding import ImageFeatures, Sizes
from types import SimpleNamespace

folder, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if ranks > 1:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
torch.manual_seed(0)
raw_image, raw_text = torch.randn(6, 5), torch.randn(7, 5)
owner = torch.tensor([0, 0, 2, 3, 4, 5, 5])
labels = torch.tensor([[1.0], [0.0], [float("nan")], [1.0], [float("nan")], [float("nan")]])
rows = slice(2 * rank, 2 + 4 * rank) if ranks > 1 else slice(0, 6)
texts = (owner >= rows.start) & (owner < rows.stop)
layer = torch.nn.Linear(5, 4)
scale, bias = torch.nn.Parameter(torch.tensor(9.0)), torch.nn.Parameter(torch.tensor(-1.0))
labels_objective = LabelsConfig().build(Sizes(image=4, text=4, embed=4, labels=("a",)))
# More negatives than there are: all of them, whatever is drawn.
medslip = MedslipConfig(
    queries="learned", width=4, depth=1, heads=1, hidden=4, dropout=0.0, count=9,
    negatives="unmentioned",
).build(Sizes(image=4, text=4, embed=4, anatomies=("a", "b", "c"), observations=("x", "y")))
relations = torch.randint(-2, 2, (6, 3, 2)).to(torch.int8)
relations[:2] = -2
weights = [
    *layer.parameters(), scale, bias, *labels_objective.parameters(), *medslip.parameters()
]
results = {}
ties = {
    "weight_B": torch.tensor([1.0, 2, 1, 1, 3, 1])[rows],
    "weight_M": torch.tensor([1.0, 1, 2, 1, 1, 0.5, 1])[texts],
    "group_M": torch.tensor([4, 2, 4, 2, 2, 8, 4])[texts],
    "patient_B": torch.tensor([1, 2, 2, 1, 4, 4])[rows],
}
tied = {
    "": Ties(), " left out": Ties(**ties), " shared": Ties(**ties, share=True)
}
tied |= {f" smoothed{name}": value for name, value in tied.items()}
names = [loss + tie for loss in ("clip", "siglip") for tie in tied]
names = [name for name in names if "siglip smoothed" not in name]
for name in [*names, "labels", "medslip"]:
    for weight in weights:
        weight.grad = None
    image = torch.nn.functional.normalize(layer(raw_image[rows]), dim=1)
    text = torch.nn.functional.normalize(layer(raw_text[texts]).tanh(), dim=1)
    own = owner[texts] - rows.start
    kind, _, tie = name.partition(" ")
    if kind == "clip":
        smoothing = 0.1 if "smoothed" in name else 0.0
        loss = contrast_clip(image, text, own, scale, tied[name[4:]], smoothing=smoothing)
    elif kind == "siglip":
        loss = contrast_siglip(image, text, own, scale, bias, tied[name[6:]])
    elif kind == "medslip":
        tokens = torch.stack([image, image.roll(1, 1)], 1)
        features = ImageFeatures(pooled_BD=image, tokens_BPD=tokens, grid=(2,), maps=())
        loss = medslip(
            SimpleNamespace(image=features, read=None),
            SimpleNamespace(relations_BAQ=relations[rows]),
        )
    else:
        features = ImageFeatures(pooled_BD=image, tokens_BPD=image, grid=(1,), maps=())
        loss = labels_objective(
            SimpleNamespace(image=features), SimpleNamespace(labels_BL=labels[rows])
        )
    loss.backward()
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    result = torch.cat([value.detach().flatten() for value in (loss, *grads)])
    if ranks > 1:
        dist.all_reduce(result)
        result /= ranks
    results[name] = result
if rank == 0:
    torch.save(results, f"{folder}/{ranks}.pt")
if ranks > 1:
    dist.destroy_process_group()
"""


def run(folder, ranks):
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(rank), str(ranks)])
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * ranks
    return torch.load(folder / f"{ranks}.pt", weights_only=True)


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    contrasts = {
        f"{loss}{tie}"
        for loss in ("clip", "siglip", "clip smoothed")
        for tie in ("", " left out", " shared")
    }
    assert one.keys() == two.keys() == contrasts | {"labels", "medslip"}
    for name, value in one.items():
        assert value.abs().sum() > 0
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
