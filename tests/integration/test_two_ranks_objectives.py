"""Two gloo ranks compute what one would, for every objective that looks at more than pairs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
SCRIPT = """
import dataclasses
import math
import sys
import torch
import torch.distributed as dist
from encoded import SIZES, batch, encodings
from medvlp.losses.label_text import LabelTextConfig
from medvlp.losses.local import LocalConfig
from medvlp.losses.multi_text import MultiTextConfig
from medvlp.losses.prompt_pool import PromptPoolConfig
from medvlp.losses.unicl import UniclConfig
import clips
import marked
from medvlp.losses.gather import contrast_views
from medvlp.losses.objectives import ClipConfig
from medvlp_video.losses.ego_nce import EgoNceConfig
from medvlp_video.losses.hierarchy import HierarchyConfig
from medvlp_video.losses.memory import MemoryConfig
from medvlp_video.losses.mil_nce import MilNceConfig
from medvlp_video.losses.procedural import ProceduralConfig
from medvlp_video.losses.video_ssl import VideoSslConfig
from medvlp_volumetric.losses.hierarchical import HierarchicalConfig

folder, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if ranks > 1:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
nan = math.nan
labels = [[1.0, 0, nan], [1, 1, 0], [nan] * 3, [0, 0, 0], [0, nan, -1], [0, 0, 0]]
levels = ("section", "sentence", "sentence")
few = ((0, 0), (1, 2), (4, 0), (4, 1), (4, 2))
configs = {
    "local": LocalConfig(),
    "local mean": LocalConfig(aggregate="mean", duplicates="leave-out"),
    "multi-text": MultiTextConfig(anchor="section"),
    "multi-text left out": MultiTextConfig(own="leave-out", threshold=0.5),
    "label-text": LabelTextConfig(),
    "unicl": UniclConfig(),
    "prompt-pool": PromptPoolConfig(visual=9, language=7, visual_chosen=3, language_chosen=2),
}
# Rank 0 has two samples, rank 1 four; in the second case rank 0 has no text at all.
here = torch.arange(6)
if ranks > 1:
    here = here[:2] if rank == 0 else here[2:]
results = {}


def keep(name, loss, weights):
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads)]
    result = torch.cat([value.detach().flatten().double() for value in (loss, *grads)])
    if ranks > 1:
        dist.all_reduce(result)
        result /= ranks
    results[name] = result


for case, absent in (("some", few), ("none", tuple((i, n) for i in range(2) for n in range(3)))):
    for name, config in configs.items():
        torch.manual_seed(0)
        objective = config.build(SIZES).double()
        whole = encodings(6, 3)
        data = batch(6, 3, absent=absent, levels=levels, labels=labels)
        # Both of rank 0's images say what one of rank 1's says.
        for kept in (data.text_BNT, data.text_mask_BNT):
            kept[0, 1] = kept[1, 1] = kept[5, 2]
        data = data.rows(here)
        longest = int(data.text_mask_BNT.any(0).any(0).sum()) or 1
        data = dataclasses.replace(
            data,
            text_BNT=data.text_BNT[..., :longest],
            text_mask_BNT=data.text_mask_BNT[..., :longest],
        )
        part = whole.rows(here)
        part = dataclasses.replace(part, token_BNTE=part.token_BNTE[:, :, :longest])
        loss = objective(part, data)
        weights = [
            *(getattr(whole, n) for n in ("image_BE", "patch_BPE", "text_BNE", "token_BNTE")),
            whole.scale, whole.image.pooled_BD, *objective.parameters(),
        ]
        keep(f"{name}, {case}", loss, weights)
# In the second case, rank 0 has no text.
for case, reports in (("some", marked.REPORTS), ("none", ((None, None),) * 2 + marked.REPORTS[2:])):
    torch.manual_seed(0)
    objective = HierarchicalConfig().build(marked.SIZES).double()
    data = marked.batch(reports)
    whole = marked.encodings(data)
    weights = [*whole.image.maps, whole.state_BNTD, whole.sentence_BNSD, *objective.parameters()]
    keep(f"hierarchical, {case}", objective(whole.rows(here), data.rows(here)), weights)
apart = {"same_recording": "leave-out"}
configs = {
    "clip by options": ClipConfig(texts="first", to_texts=0.75, least_weight=0.1, **apart),
    "mil-nce": MilNceConfig(**apart),
    "mil-nce as published": MilNceConfig(form="published"),
    "ego-nce": EgoNceConfig(
        verbs={"x": ("a",)}, nouns={"y": ("b", "c")}, duplicates="share", least_weight=0.1, **apart
    ),
    "hierarchy": HierarchyConfig(**apart),
    "procedural": ProceduralConfig(contrast="hinge", margin=0.2),
    "memory": MemoryConfig(retrieved=2),
    "memory by clips": MemoryConfig(retrieved=2, query="clip", max_age=2, size=3),
    "video-ssl": VideoSslConfig(siamese=0.5, embed=3, on_views=(ClipConfig(texts="first"),)),
}
for case, absent in (("some", few), ("none", tuple((i, n) for i in range(2) for n in range(3)))):
    for name, config in configs.items():
        torch.manual_seed(0)
        objective = config.build(SIZES).double().train()
        memory = getattr(objective, "memory", None)
        for seed in range(3):
            # The first batches fill the memory; rank 0 has the silent ones, or none.
            silent = ((seed, 0), (seed, 1), (seed, 2)) if memory is not None else ()
            whole = clips.encodings(6, 3, seed=seed)
            data = clips.batch(6, 3, absent=(*absent, *silent), labels=labels)
            image = torch.rand(6, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
            data, part = dataclasses.replace(data, image=image).rows(here), whole.rows(here)
            numbers = torch.randn(64, 5, generator=torch.Generator().manual_seed(2)).double()

            def see(image):
                pooled = image.flatten(1).double() @ numbers.repeat(2, 1)
                return dataclasses.replace(whole.image, pooled_BD=pooled)

            part = dataclasses.replace(part, see=see, place=lambda f: f.pooled_BD[:, :4])
            loss = objective(part, data)
        weights = [
            *(getattr(whole, n) for n in ("image_BE", "patch_BPE", "text_BNE", "image_raw_BE")),
            whole.text_raw_BNE, whole.scale, *objective.parameters(),
        ]
        keep(f"{name}, {case}", loss, weights)
        if memory is not None:
            held = [memory.entry_SE.flatten(), memory.recording_S, memory.taken_S]
            results[f"{name}, {case}, held"] = torch.cat([value.double() for value in held])
if rank == 0:
    torch.save(results, f"{folder}/{ranks}.pt")
if ranks > 1:
    dist.destroy_process_group()
"""


def run(folder, ranks):
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(rank), str(ranks)],
            env={**os.environ, "PYTHONPATH": paths},
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * ranks
    return torch.load(folder / f"{ranks}.pt", weights_only=True)


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    assert one.keys() == two.keys()
    assert len(one) == 38
    for name, value in one.items():
        assert value[0] > 0 or "held" in name, name
        torch.testing.assert_close(two[name], value, msg=name)
