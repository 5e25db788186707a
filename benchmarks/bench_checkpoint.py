"""Checkpoints under kills and damage, and how long writing one holds up training.

    python benchmarks/bench_checkpoint.py [--kills 60] [--damage 200] [--mib 96] [--out FILE]

Peer: Lightning's own `TorchCheckpointIO` (`torch.save` through fsspec), in the same loops.
`tests/integration/test_exact_resume.py` holds ours to its promises.
"""

import argparse
import hashlib
import os
import random
import signal
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from page import commit

from medvlp.errors import RunError
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.checkpoint_io import SafeCheckpointIO
from medvlp.train.saving import resume_point

ELSEWHERE = Path("/dev/shm")


def state_of(mib: float, step: int = 0) -> dict[str, Any]:
    """A state like a training's: weights and two moments, in eight parts."""
    count = int(mib * 2**20 / 4 / 3 / 8)
    weights = {f"w{i}": torch.full((count,), float(step)) for i in range(8)}
    moments = {
        i: {"exp_avg": w.clone(), "exp_avg_sq": w.clone()} for i, w in enumerate(weights.values())
    }
    return {"state_dict": weights, "optimizer_states": [{"state": moments}], "global_step": step}


def ours(folder: Path) -> SafeCheckpointIO:
    return SafeCheckpointIO({folder / "last.safetensors": folder / "previous.safetensors"})


def save_for_ever(folder: Path, peer: bool, mib: float) -> None:
    """Save step after step, in a child that will be killed; `begun` says that one is whole."""
    io: Any = TorchCheckpointIO() if peer else ours(folder)
    path = folder / ("last.ckpt" if peer else "last.safetensors")
    step = 0
    while True:
        step += 1
        io.save_checkpoint(state_of(mib, step), path)
        (folder / "begun").touch()


def readable(folder: Path, peer: bool) -> bool:
    """Whether a run could go on: a sound checkpoint with one step's values throughout."""
    try:
        if peer:
            state = torch.load(folder / "last.ckpt", weights_only=True)
        else:
            state = read_checkpoint(resume_point(folder, first=True)[0] or folder / "none")
    except Exception:
        return False
    values = [*state["state_dict"].values(), *(
        moment for each in state["optimizer_states"][0]["state"].values()
        for moment in each.values()
    )]  # fmt: skip
    return all((value == state["global_step"]).all() for value in values)


def kill_loop(folder: Path, kills: int, *, peer: bool, mib: float, seed: int = 0) -> dict[str, int]:
    """SIGKILL children that save; temporary files go to another file system where there is one."""
    draw = random.Random(seed)
    counts = {"kills": 0, "unreadable": 0, "interrupted": 0, "orphans": 0}
    with tempfile.TemporaryDirectory(dir=ELSEWHERE if ELSEWHERE.is_dir() else None) as elsewhere:
        for k in range(kills):
            place = folder / f"{'peer' if peer else 'ours'}{k}"
            place.mkdir()
            child = os.fork()
            if child == 0:
                tempfile.tempdir = elsewhere
                os.environ["TMPDIR"] = elsewhere
                warnings.simplefilter("ignore")
                try:
                    save_for_ever(place, peer, mib)
                finally:
                    os._exit(1)
            while not (place / "begun").exists():
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            left = [*place.glob(".*.tmp"), *Path(elsewhere).glob("*")]
            counts["kills"] += 1
            counts["interrupted"] += bool(left)
            counts["unreadable"] += not readable(place, peer)
            counts["orphans"] += len([*place.glob(".*.tmp")]) + (len(left) if peer else 0)
            for file in (*place.iterdir(), *Path(elsewhere).glob("*")):
                file.unlink()
    return counts


def damage_loop(folder: Path, count: int, *, peer: bool, seed: int = 0) -> int:
    """One-bit flips and truncations in equal number; how many are noticed."""
    draw = random.Random(seed)
    path = folder / ("damaged.ckpt" if peer else "damaged.safetensors")
    io: Any = TorchCheckpointIO() if peer else SafeCheckpointIO()
    io.save_checkpoint(state_of(0.2, 3), path)
    data = path.read_bytes()
    noticed = 0
    for k in range(count):
        bad = bytearray(data)
        if k % 2:
            del bad[draw.randrange(len(bad)) :]
        else:
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        try:
            if peer:
                torch.load(path, weights_only=True)
            else:
                read_checkpoint(path)
        except RunError:
            noticed += 1
        except Exception:
            noticed += peer
    return noticed


def blocking(folder: Path, mib: float, repeats: int) -> dict[str, list[float]]:
    """Seconds for which a save holds up the caller, the ways alternating."""
    state = state_of(mib)
    at_once, later = SafeCheckpointIO(), SafeCheckpointIO(asynchronous=True)
    files = {name: folder / f"{name}.bin" for name in ("at once", "by a thread", "Lightning")}
    saves: dict[str, Callable[[], None]] = {
        "at once": lambda: at_once.save_checkpoint(state, files["at once"]),
        "by a thread": lambda: later.save_checkpoint(state, files["by a thread"]),
        "Lightning": lambda: TorchCheckpointIO().save_checkpoint(state, files["Lightning"]),
    }
    took: dict[str, list[float]] = {name: [] for name in saves}
    for repeat in range(repeats + 1):
        for name, save in saves.items():
            begin = time.perf_counter()
            save()
            if repeat:  # The first save of a run also takes the copies' memory.
                took[name].append(time.perf_counter() - begin)
            later.finish()
    later.teardown()
    if at_once.failed or later.failed:
        raise at_once.failed or later.failed  # type: ignore[misc]
    digests = {hashlib.sha256(files[n].read_bytes()).digest() for n in ("at once", "by a thread")}
    if len(digests) != 1:
        raise RuntimeError("the thread wrote other bytes")
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--damage", type=int, default=200)
    parser.add_argument("--mib", type=float, default=96)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = ["| case | medvlp | Lightning |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Children are forked, so nothing may have started PyTorch's threads before.
        ran = [kill_loop(folder, args.kills, peer=peer, mib=2) for peer in (False, True)]
        for key, what in (
            ("interrupted", "of them in the middle of a save"),
            ("unreadable", "no sound checkpoint left"),
            ("orphans", "files left over after the next start"),
        ):
            cells = " | ".join(f"{counts[key]} of {counts['kills']}" for counts in ran)
            rows.append(f"| SIGKILL while saving, TMPDIR elsewhere: {what} | {cells} |")
        found = " | ".join(
            f"{damage_loop(folder, args.damage, peer=peer)} of {args.damage}"
            for peer in (False, True)
        )
        rows.append(f"| flipped bits and truncations noticed | {found} |")
        took = blocking(folder, args.mib, args.repeats)
    ms = {name: [1000 * s for s in seconds] for name, seconds in took.items()}
    told = {
        n: f"{statistics.median(v):.0f} ms ({min(v):.0f} to {max(v):.0f})" for n, v in ms.items()
    }
    rows.append(f"| {args.mib:.0f} MiB, training waits | {told['at once']} | {told['Lightning']} |")
    share = statistics.median(a / b for a, b in zip(ms["by a thread"], ms["at once"], strict=True))
    rows.append(
        f"| the same, `save_async` | {told['by a thread']}: {100 * share:.0f} % of at once | - |"
    )
    command = (
        f"`python benchmarks/bench_checkpoint.py --kills {args.kills} --damage {args.damage} "
        f"--mib {args.mib:.0f} --repeats {args.repeats}`, {os.cpu_count()} cores, commit {commit()}"
    )
    text = "# Checkpoints: kills, damage, waiting\n\n" + command + "\n\n" + "\n".join(rows) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
