"""The local contrast of GLoRIA by loops, one word and one place at a time."""

import torch


def literal_agreement(patches, words, aggregate="sum"):
    """log Σ_w exp(5 cos(w, c_w)) of one image and one text, or of the mean over words."""
    total = 0.0
    found = [[0.0] * len(patches) for _ in words]
    for p, patch in enumerate(patches):
        shares = torch.stack([(word * patch).sum() for word in words]).exp()
        for w in range(len(words)):
            found[w][p] = shares[w] / shares.sum()
    for w, word in enumerate(words):
        look = torch.stack([(4 * f).exp() for f in found[w]])
        context = sum((a / look.sum()) * patch for a, patch in zip(look, patches, strict=True))
        cosine = (context * word).sum() / (context.norm() * word.norm())
        total = total + (5 * cosine).exp()
    if aggregate == "mean":
        total = total / len(words)
    return torch.as_tensor(total).log()


def literal_contrast(patches_B, texts, aggregate="sum", said=None):
    """Half the mean over images with a text, plus half that over texts.

    `texts` holds the image that each text belongs to, and its words; `said` what each says, where
    another image's text that says the same is left out.
    """
    logit = [
        [10 * literal_agreement(list(patches), words, aggregate) for _, words in texts]
        for patches in patches_B
    ]
    said = said or range(len(texts))
    own = [{said[m] for m, (owner, _) in enumerate(texts) if owner == i} for i in range(len(logit))]
    kept = [
        [owner == i or said[m] not in own[i] for m, (owner, _) in enumerate(texts)]
        for i in range(len(logit))
    ]
    images, per_text = [], []
    for i, row in enumerate(logit):
        whole = torch.stack([x for m, x in enumerate(row) if kept[i][m]]).logsumexp(0)
        terms = [whole - row[m] for m, (owner, _) in enumerate(texts) if owner == i]
        if terms:
            images.append(sum(terms) / len(terms))
    for m, (owner, _) in enumerate(texts):
        column = torch.stack([row[m] for i, row in enumerate(logit) if kept[i][m]])
        per_text.append(column.logsumexp(0) - logit[owner][m])
    return (sum(images) / len(images) + sum(per_text) / len(per_text)) / 2
