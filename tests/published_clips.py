"""What tests of imports of surgical models share: a TimeSformer in published names, literally."""

import torch
import torch.nn.functional as F
from published import TimmVit
from torch import nn


def attended(attention, x_ND):
    """Tokens that look at each other, head by head of 64 channels."""
    found = []
    qkv = attention["qkv"](x_ND).chunk(3, -1)
    for q, k, v in zip(*(part.split(64, -1) for part in qkv), strict=True):
        found.append(torch.softmax(q @ k.T / 8, -1) @ v)
    return attention["proj"](torch.cat(found, -1))


class SpaceTime(TimmVit):
    """A vision transformer whose patches look along time first, in SurgCLIP's names."""

    def __init__(self, frames=3, size=32, patch=16, width=128, depth=2):
        super().__init__(size, patch, width, depth)
        self.time_embed = nn.Parameter(torch.randn(1, frames, width))
        for block in self.blocks:
            block.temporal_norm1 = nn.LayerNorm(width, 1e-6)
            block.temporal_attn = nn.ModuleDict(
                {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
            )
            block.temporal_fc = nn.Linear(width, width)
        self.pool_norm = nn.LayerNorm(width, 1e-6)

    def tokens(self, clip_FCHW, published):
        """(S,F,D) of one clip behind the last norm."""
        patches = self.patch_embed["proj"](clip_FCHW).flatten(2).permute(2, 0, 1)
        patches = patches + self.pos_embed[0, 1:, None]
        if len(clip_FCHW) > 1:
            patches = patches + self.time_embed
        lead = (self.cls_token + self.pos_embed[:, :1]).expand(1, len(clip_FCHW), -1)
        x = torch.cat([lead, patches])
        for block in self.blocks:
            x = space_time(block, x, published)
        return self.norm(x)

    def parts(self, clip_FCHW):
        """(F,D): the vectors whose cosines SurgCLIP averages."""
        x = self.tokens(clip_FCHW, published=True)
        line = [x[s, f] for s in range(x.shape[0]) for f in range(x.shape[1])]
        runs = [line[k : k + x.shape[0]] for k in range(0, len(line), x.shape[0])]
        return self.pool_norm(torch.stack([torch.stack(run[1:]).mean(0) for run in runs]))


def space_time(block, x_SFD, published):
    """One clip's tokens after a block, place by place and frame by frame."""
    lead, places = x_SFD[0], x_SFD[1:]
    if published:
        lead = places[0]
    along = [
        place + block.temporal_fc(attended(block.temporal_attn, block.temporal_norm1(place)))
        for place in places
    ]
    within, leads = [], []
    for f in range(x_SFD.shape[1]):
        own = torch.stack([lead[f], *(place[f] for place in along)])
        found = attended(block.attn, block.norm1(own))
        leads.append(found[0])
        within.append((own + found)[1:])
    lead = 2 * torch.stack(leads) if published else lead + torch.stack(leads).mean(0)
    x = torch.cat([lead[None], torch.stack(within, 1)])
    return x + block.mlp["fc2"](F.gelu(block.mlp["fc1"](block.norm2(x))))
