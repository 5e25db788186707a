"""Soft-DTW written out: cell by cell, and over all paths one by one."""

import itertools

import torch


def softened(values, gamma, soft_min):
    values = torch.stack([value for value in values if value < torch.inf] or list(values[:1]))
    if soft_min == "logsumexp":
        return -gamma * torch.logsumexp(-values / gamma, 0)
    return ((-values / gamma).softmax(0) * values).sum()


def literal(cost_TK, gamma, soft_min, drop_T=None):
    """The recursion, differentiated by autograd."""
    (frames, steps), inf = cost_TK.shape, cost_TK.new_tensor(torch.inf)
    before = [torch.zeros_like(inf), *[inf] * steps]
    for t in range(frames):
        dropped = inf if drop_T is None else drop_T[t]
        shown, either = [inf], [before[0] + dropped]
        for k in range(1, steps + 1):
            three = before[k], before[k - 1], shown[k - 1]
            shown.append(cost_TK[t, k - 1] + softened(three, gamma, soft_min))
            either.append(softened((shown[k], before[k] + dropped), gamma, soft_min))
        before = either
    return before[-1]


def literal_batch(cost_BTK, gamma, soft_min, lengths, drop_BT=None):
    drops = [None] * len(cost_BTK) if drop_BT is None else drop_BT
    return torch.stack(
        [
            literal(cost[:t, :k], gamma, soft_min, drop)
            for cost, drop, t, k in zip(cost_BTK, drops, *lengths, strict=True)
        ]
    )


def paths(frames, steps):
    """Every monotone path from the first cell to the last."""

    def onward(path):
        t, k = path[-1]
        if (t, k) == (frames - 1, steps - 1):
            yield path
        for cell in ((t + 1, k + 1), (t + 1, k), (t, k + 1)):
            if cell[0] < frames and cell[1] < steps:
                yield from onward([*path, cell])

    return list(onward([(0, 0)]))


def paths_with_drops(frames, steps):
    """(cells, dropped frames): paths over those frames alone that are not dropped."""
    for count in range(1, frames + 1):
        for kept in itertools.combinations(range(frames), count):
            dropped = [t for t in range(frames) if t not in kept]
            for path in paths(count, steps):
                yield [(kept[t], k) for t, k in path], dropped


def weighed(cost_TK, gamma, drop_T=None):
    """Over all paths: the log-sum-exp value, each cell's probability, the cheapest cost."""
    if drop_T is None:
        every = [(path, []) for path in paths(*cost_TK.shape)]
    else:
        every = list(paths_with_drops(*cost_TK.shape))
    totals = torch.stack(
        [
            sum(cost_TK[cell] for cell in cells) + sum(drop_T[t] for t in dropped)
            for cells, dropped in every
        ]
    )
    expected = torch.zeros_like(cost_TK)
    for weight, (cells, _) in zip((-totals / gamma).softmax(0), every, strict=True):
        for cell in cells:
            expected[cell] += weight
    return -gamma * torch.logsumexp(-totals / gamma, 0), expected, totals.min()
