"""The losses room: pure functions first, thin modules second."""

from medvlp.losses.contrastive import clip_loss, siglip_loss

__all__ = ["clip_loss", "siglip_loss"]
