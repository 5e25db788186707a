"""The memory of silent videos against a list, its contrast against a loop, and its state."""

import dataclasses

import clips
import pytest
import torch
import torch.nn.functional as F
from encoded import SIZES, gradients

from medvlp.train.checkpoint import read_checkpoint, write_checkpoint
from medvlp_video.losses.memory import Memory, MemoryConfig


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_it_is_a_list_that_is_renewed():
    memory, told = Memory(5, 3, 4).double(), []
    for step in range(14):
        generator = torch.Generator().manual_seed(step)
        keys = torch.randperm(8, generator=generator)[: step % 4]
        videos = unit(len(keys), 4, seed=100 + step)
        memory.take(videos, keys)
        told = [(k, at, v) for k, at, v in told if k not in keys.tolist() and step - at < 3]
        new = sorted(zip(keys.tolist(), [step] * len(keys), videos, strict=True),
                     key=lambda entry: entry[0])  # fmt: skip
        told = (told + new)[-5:]
        assert memory.recording_S.tolist() == [k for k, _, _ in told]
        assert memory.taken_S.tolist() == [at + 1 for _, at, _ in told]
        expected = torch.stack([v for *_, v in told]) if told else torch.empty(0, 4).double()
        torch.testing.assert_close(memory.entry_SE, expected)
        assert len(memory) <= 5
    assert told


def test_a_recording_that_comes_twice_is_one_entry():
    memory, videos = Memory(5, None, 4).double(), unit(3, 4)
    memory.take(videos, torch.tensor([4, 4, 2]))
    assert memory.recording_S.tolist() == [2, 4]
    torch.testing.assert_close(memory.entry_SE[1], F.normalize(videos[0] + videos[1], dim=0))


def test_a_video_that_is_not_finite_leaves_no_trace():
    spoilt, sound = Memory(5, 3, 4).double(), Memory(5, 3, 4).double()
    videos, keys = unit(3, 4), torch.tensor([4, 2, 7])
    for memory in (spoilt, sound):
        memory.take(unit(2, 4, seed=1), torch.tensor([2, 9]))
    bad = videos.clone()
    bad[1, 2] = torch.nan
    spoilt.take(bad, keys)
    sound.take(videos[[0, 2]], keys[[0, 2]])
    for step in range(2):
        queries = unit(3, 4, seed=20 + step)
        found = spoilt.nearest(queries, torch.tensor([1, 2, 3]), 3, 10.0)
        assert found.isfinite().all()
        assert torch.equal(found, sound.nearest(queries, torch.tensor([1, 2, 3]), 3, 10.0))
        for memory in (spoilt, sound):
            memory.take(unit(2, 4, seed=30 + step), torch.tensor([11, 12]))


def filled(config, seed=9):
    objective = config.build(SIZES).double()
    objective.memory.take(unit(6, 4, seed=seed), torch.tensor([1, 2, 7, 4, 5, 9]))
    return objective


def literal(objective, one, data, config):
    """Each query, each entry, each softmax by itself."""
    memory = objective.memory
    told = [i for i, n in clips.owners(data) if n == 0]
    by_text = config.query == "text"
    asks = {i: one.text_BNE[i, 0] if by_text else one.image_BE[i] for i in told}
    found = {}
    for i, query in asks.items():
        scored = [
            (float(query.detach() @ entry), entry)
            for entry, recording in zip(memory.entry_SE, memory.recording_S, strict=True)
            if recording != data.recording_B[i]
        ]
        scored = sorted(scored, key=lambda pair: -pair[0])[: config.retrieved]
        if scored:
            weights = torch.softmax(one.scale.detach() * torch.tensor([s for s, _ in scored]), 0)
            mean = sum(w * entry for w, (_, entry) in zip(weights, scored, strict=True))
            found[i] = F.normalize(mean, dim=0)
    others = {i: one.image_BE[i] if by_text else one.text_BNE[i, 0] for i in told}
    total = 0.0
    # Videos that found nothing are negatives; texts that found nothing do not take part.
    rivals = told if by_text else list(found)
    for i in found:
        logit = one.scale * (others[i] @ found[i])
        across = torch.stack([one.scale * (others[i] @ found[j]) for j in found])
        back = torch.stack([one.scale * (others[j] @ found[i]) for j in rivals])
        total = total + (across.logsumexp(0) + back.logsumexp(0) - 2 * logit) / 2
    return total / len(found)


@pytest.mark.parametrize("query", ["text", "clip"])
def test_what_is_retrieved_is_contrasted_as_in_a_loop(query):
    config = MemoryConfig(retrieved=3, query=query)
    objective = filled(config).eval()
    one, data = clips.encodings(6, 2), clips.batch(6, 2, absent=((4, 0), (4, 1), (2, 1)))
    found = objective(one, data)
    expected = literal(objective, one, data, config)
    torch.testing.assert_close(found, expected)
    fields = ("image_BE", "text_BNE", "scale")
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))
    # The side that asks has no gradient.
    asked = "text_BNE" if query == "text" else "image_BE"
    assert gradients(objective(one, data), one, asked)[asked].abs().sum() == 0


def test_its_own_recording_is_never_retrieved():
    memory = Memory(3, None, 4).double()
    videos = unit(2, 4)
    memory.take(videos, torch.tensor([3, 8]))
    found = memory.nearest(videos, torch.tensor([3, 8]), 5, 10.0)
    torch.testing.assert_close(found, videos.flip(0))
    memory.take(videos[:0], torch.tensor([], dtype=torch.long))
    lone = Memory(3, None, 4).double()
    lone.take(videos[:1], torch.tensor([3]))
    assert (lone.nearest(videos, torch.tensor([3, 8]), 5, 10.0) != 0).any(1).tolist() == [
        False, True,
    ]  # fmt: skip


def test_silent_samples_enter_in_training_alone():
    one, silent = clips.encodings(5, 2), ((1, 0), (1, 1), (3, 0), (3, 1), (2, 0))
    data = clips.batch(5, 2, absent=silent)
    objective = MemoryConfig(size=10).build(SIZES).double()
    objective.eval()(one, data)
    assert len(objective.memory) == 0
    first = objective.train()(one, data)
    assert first == 0  # nothing was there yet
    # The third has a text of another kind: it is not silent.
    assert objective.memory.recording_S.tolist() == [7, 11]
    torch.testing.assert_close(objective.memory.entry_SE, one.image_BE.detach()[[1, 3]])
    assert not objective.memory.entry_SE.requires_grad
    assert objective(one, data) > 0


def test_the_ablation_fills_the_memory_and_asks_nothing():
    one, data = clips.encodings(4, 2), clips.batch(4, 2, absent=((1, 0), (1, 1)))
    objective = MemoryConfig(retrieve=False).build(SIZES).double().train()
    for _ in range(2):
        loss = objective(one, data)
        assert loss == 0
        assert gradients(loss, one, "image_BE", "text_BNE")["image_BE"].abs().sum() == 0
    assert len(objective.memory) == 1


def test_a_resumed_run_asks_the_same_memory(tmp_path):
    one, data = clips.encodings(6, 2), clips.batch(6, 2, absent=((1, 0), (1, 1)))
    config = MemoryConfig(size=7, max_age=3)
    objective = filled(config).train()
    objective(one, data)
    write_checkpoint(dict(objective.state_dict()), tmp_path / "c.safetensors")
    resumed = config.build(SIZES).double().train()
    resumed.load_state_dict(read_checkpoint(tmp_path / "c.safetensors"))
    for seed in range(4):
        later = clips.encodings(6, 2, seed=20 + seed)
        assert torch.equal(objective(later, data), resumed(later, data))
        for name, value in objective.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_nothing_of_the_videos_is_left_when_training_has_ended():
    objective = filled(MemoryConfig())
    objective.settle(lambda *_: None)
    fresh = MemoryConfig().build(SIZES).double()
    assert {n: v.shape for n, v in objective.state_dict().items()} == {
        n: v.shape for n, v in fresh.state_dict().items()
    }
    assert len(objective.memory) == 0


def test_recordings_are_asked_for_by_name():
    bare = dataclasses.replace(clips.batch(2, 1), recording_B=None)
    with pytest.raises(ValueError, match="no recording_B"):
        MemoryConfig().build(SIZES)(clips.encodings(2, 1), bare)
