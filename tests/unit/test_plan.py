from collections import Counter
from itertools import islice

import pytest

from medvlp.config import validate
from medvlp.data.items import DataConfig
from medvlp.data.mix import MixConfig
from medvlp.data.plan import Plan, StepSampler, training_plan
from medvlp.errors import ConfigError

HECVL = {"clip": 3, "phase": 2, "video": 1}
COUNTS = [40, 24, 8]


def mixed(batch: int = 8, accumulate: int = 1, **options: object) -> Plan:
    streams = options.pop("streams", {name: {"ratio": r} for name, r in HECVL.items()})
    mix = validate(MixConfig, {"streams": streams, **options}, "mix")
    return training_plan(mix, COUNTS, batch, seed=1, accumulate=accumulate)


def single(count: int, batch: int, seed: int = 1) -> Plan:
    return training_plan(None, [count], batch, seed=seed)


def streams_of(plan: Plan, batches: range) -> list[str]:
    return [plan.names[draw.stream] for batch in batches for draw in plan.draws(batch)]


def test_one_stream_covers_each_epoch_without_repetition() -> None:
    steps = list(StepSampler(single(10, 3), total=7))
    assert [{e for e, _ in step} for step in steps] == [{0}] * 3 + [{1}] * 3 + [{2}]
    for epoch in (0, 1):
        seen = [i for step in steps for e, i in step if e == epoch]
        assert len(seen) == len(set(seen)) == 9
    assert steps[0] != [(0, i) for _, i in steps[3]]


def test_of_every_cycle_each_stream_has_exactly_its_part() -> None:
    plan = mixed()
    drawn = streams_of(plan, range(60))
    cycles = [drawn[i : i + 6] for i in range(0, 60, 6)]
    assert all(Counter(cycle) == HECVL for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 3  # each cycle has an order of its own


def test_blocks_follow_the_order_of_the_streams() -> None:
    drawn = streams_of(mixed(order="blocks"), range(12))
    assert drawn == ["clip", "clip", "clip", "phase", "phase", "video"] * 2


def test_each_stream_has_epochs_of_its_own_and_small_ones_repeat() -> None:
    plan = mixed()
    first = {"clip": range(40), "phase": range(40, 64), "video": range(64, 72)}
    seen = {name: Counter() for name in HECVL}
    for step in StepSampler(plan, total=60):
        (name,) = {n for n, span in first.items() if step[0][1] in span}
        seen[name].update(step)
    assert {n: len(c) for n, c in seen.items()} == {"clip": 240, "phase": 160, "video": 80}
    for name, counted in seen.items():
        assert set(counted.values()) == {1}  # no (epoch, item) twice
        assert {i for _, i in counted} == set(first[name])
        epochs = Counter(epoch for epoch, _ in counted)
        size, whole = len(first[name]), len(counted) // len(first[name])
        assert [epochs[epoch] for epoch in range(whole)] == [size] * whole


SHAPES = {
    "one": single(40, 8),
    "steps": mixed(),
    "accumulated": mixed(accumulate=2),
    "sizes": mixed(
        streams={
            "clip": {"ratio": 3},
            "phase": {"ratio": 2, "batch_size": 4},
            "video": {"ratio": 1, "batch_size": 2},
        },
        schedule=[{"step": 7, "ratios": {"clip": 0, "video": 5}}],
    ),
    "samples": mixed(
        streams={"clip": {"ratio": 2}, "phase": {}, "video": {}},
        by="sample",
        schedule=[{"step": 9, "ratios": {"clip": 0}}],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_from_any_batch_the_stream_goes_on_as_it_was(name: str) -> None:
    plan = SHAPES[name]
    whole = list(StepSampler(plan, total=40))
    assert len(StepSampler(plan, total=40, start=5)) == 40
    for start in range(40):
        rest = StepSampler(plan, total=40, start=start)
        assert list(islice(rest, 3)) == whole[start : start + 3]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", ["one", "steps", "accumulated", "samples"])
def test_ranks_share_each_global_batch(name: str, world: int) -> None:
    halves = {"clip": {"ratio": 2}, "phase": {}, "video": {}}
    wide = mixed(batch=16, by="sample", streams=halves)
    plan = wide if name == "samples" else SHAPES[name]
    one = list(StepSampler(plan, total=30))
    ranks = [list(StepSampler(plan, total=30, rank=r, world=world)) for r in range(world)]
    for step, shares in zip(one, zip(*ranks, strict=True), strict=True):
        assert {len(share) for share in shares} == {len(step) // world}
        assert sorted(pair for share in shares for pair in share) == sorted(step)
        spread = [Counter(i >= 40 for _, i in share) for share in shares]
        assert all(part == spread[0] for part in spread)


def test_all_batches_of_an_accumulated_step_are_of_one_stream() -> None:
    plan = mixed(accumulate=3)
    drawn = streams_of(plan, range(36))
    assert drawn[::3] == drawn[1::3] == drawn[2::3] == streams_of(mixed(), range(12))
    clips = [d for b in range(36) for d in plan.draws(b) if d.stream == 0]
    assert [(d.epoch, d.place) for d in clips] == [divmod(n, 5) for n in range(18)]


def test_samples_are_mixed_within_a_batch_and_a_changed_share_begins_an_epoch() -> None:
    streams = {"clip": {"ratio": 3}, "phase": {"ratio": 1}, "video": {"ratio": 0}}
    plan = mixed(
        streams=streams, by="sample",
        schedule=[{"step": 3, "ratios": {"clip": 1, "phase": 1, "video": 2}}],
    )  # fmt: skip
    sizes = [{plan.names[d.stream]: d.size for d in plan.draws(b)} for b in (0, 2, 3)]
    assert sizes == [{"clip": 6, "phase": 2}] * 2 + [{"clip": 2, "phase": 2, "video": 4}]
    after = {plan.names[d.stream]: (d.epoch, d.place) for d in plan.draws(3)}
    # 3 of 6 batches of clips were drawn; phase keeps its share and its place.
    assert after == {"clip": (1, 0), "phase": (0, 3), "video": (0, 0)}


def test_ratios_change_at_their_step_and_streams_go_on() -> None:
    plan = mixed(schedule=[{"step": 12, "ratios": {"clip": 0, "phase": 1, "video": 1}}])
    assert Counter(streams_of(plan, range(12))) == {"clip": 6, "phase": 4, "video": 2}
    assert Counter(streams_of(plan, range(12, 20))) == {"phase": 4, "video": 4}
    phases = [d for b in range(20) for d in plan.draws(b) if d.stream == 1]
    assert [(d.epoch, d.place) for d in phases] == [divmod(n, 3) for n in range(8)]


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        ({"streams": {}}, "at least 1 item"),
        ({"streams": {"a": {"ratio": -1}}}, "greater than or equal to 0"),
        ({"streams": {"A b": {}}}, "pattern"),
        ({"streams": {"loss": {}}}, "valid_loss"),
        ({"streams": {"a": {"ratio": 0}}}, "mix from step 0: every ratio is 0"),
        ({"streams": {"a": {"manifests": ["n"]}}}, "n not among data.manifests"),
        ({"streams": {"a": {}, "b": {}, "c": {}}, "by": "sample"}, "the ratios give a 2.67, b"),
        ({"streams": {"a": {"batch_size": 4}}, "by": "sample"}, "batch_size belongs to mix.by=st"),
        ({"streams": {"a": {"preprocess": {"x": 1}}}, "by": "sample"}, "a batch has one shape"),
        (
            {"streams": {"a": {}}, "schedule": [{"step": 5, "ratios": {"b": 1}}]},
            "mix from step 5: no stream b in a",
        ),
        (
            {"streams": {"a": {}}, "schedule": [{"step": s, "ratios": {}} for s in (5, 4)]},
            r"steps \[5, 4\] do not ascend",
        ),
        ({"streams": {"a": {}}, "schedule": [{"step": 0, "ratios": {}}]}, "greater than 0"),
    ],
)
def test_impossible_mixes_are_refused(mix: dict[str, object], reason: str) -> None:
    values = {"manifests": ["m"], "batch_size": 8, "mix": mix}
    with pytest.raises(ConfigError, match=reason):
        validate(DataConfig, values, "data")


def test_a_stream_that_cannot_fill_a_batch_is_named() -> None:
    with pytest.raises(ConfigError, match=r"batch_size=9 exceeds the 8 items .* stream video"):
        mixed(batch=9)


@pytest.mark.parametrize(("count", "batch", "world"), [(3, 4, 1), (8, 3, 2)])
def test_what_cannot_be_dealt_is_refused(count: int, batch: int, world: int) -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        StepSampler(single(count, batch, 0), total=1, world=world)
