"""The decoder of text beside an image: what a token sees, and what the next one costs."""

import math

import pytest
import torch
from paired import COUNT, DECODER, encode
from transformers.loss.loss_utils import ForCausalLMLoss

from medvlp.encoding import ImageFeatures
from medvlp.losses.fusion.decoder import (
    DecoderConfig,
    TextDecoder,
    grid_places,
    next_token_losses,
)


def test_a_later_token_changes_nothing_before_it():
    torch.manual_seed(0)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(1, 6, 6, dtype=torch.float64), (2, 3))
    ids = torch.tensor([[2, 7, 8, 9, 10]])
    first = decoder(ids, memory)
    for at in range(1, 5):
        other = ids.clone()
        other[0, at] = 30
        second = decoder(other, memory)
        assert torch.equal(second[0, :at], first[0, :at])
        assert not torch.allclose(second[0, at], first[0, at])


def test_both_ways_every_token_counts_and_padding_does_not():
    torch.manual_seed(0)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(1, 6, 6, dtype=torch.float64), (2, 3))
    token = torch.randn(1, 5, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False, False]])
    whole = decoder.both_ways(token, mask, memory)[0, 0]
    torch.testing.assert_close(
        whole, decoder.both_ways(token[:, :3], mask[:, :3], memory)[0, 0], rtol=1e-12, atol=1e-12
    )
    whole.square().sum().backward()  # the sum alone is fixed by the last norm
    assert (token.grad[0, :3].abs().sum(1) > 0).all()
    assert not token.grad[0, 3:].any()


@pytest.mark.parametrize("grid", [(2, 3), (2, 2, 3), (7,), (1, 1)])
def test_every_cell_has_its_own_place(grid):
    count = math.prod(grid)
    place = grid_places(grid, torch.zeros(1, count, 13))
    assert place.shape == (count, 13)
    assert len(torch.unique(place, dim=0)) == count


def test_without_a_grid_there_are_no_places():
    assert not grid_places((), torch.ones(2, 5, 12)).any()
    decoder = TextDecoder(DECODER, COUNT, 6)
    tokens = torch.randn(2, 5, 6)
    scattered = ImageFeatures(pooled_BD=tokens[:, 0], tokens_BPD=tokens, grid=(5,), maps=())
    assert torch.equal(decoder.look(scattered), decoder.memory(tokens, ()))


def test_next_token_losses_are_those_of_transformers():
    torch.manual_seed(1)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(3, 6, 6, dtype=torch.float64), (2, 3))
    ids, mask = encode(["abcd", "b", "cd"])
    learnt = mask.clone()
    learnt[:, :2] = False
    labels = ids.masked_fill(~learnt, -100)
    expected = ForCausalLMLoss(decoder(ids, memory), labels, COUNT)
    found = next_token_losses(decoder, ids, learnt, memory)
    assert found.mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_hand_made_decoder_gives_a_hand_made_loss():
    class Hand(TextDecoder):
        def one_way(self, ids_BT, memory_BPW):
            # The next token is the third with probability 1/2, whatever went before.
            return torch.tensor([0.0, 0.0, math.log(2.0)]).expand(*ids_BT.shape, 3)

    hand = Hand(DecoderConfig(depth=1, width=3, heads=1, max_tokens=4), 3, 1)
    with torch.no_grad():
        hand.token.weight.copy_(torch.eye(3))
    ids = torch.tensor([[0, 2, 1]])
    learnt = torch.tensor([[False, True, True]])
    losses = next_token_losses(hand, ids, learnt, torch.zeros(1, 1, 3))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4)], rel=1e-6)
