"""Training that is killed at random moments and started again: is it the run without kills?

    python benchmarks/bench_resume.py [--kills 7] [--steps 30] [--seed 0] [--out FILE]

Small runs (two towers, dropout, augmentation) in several variants. One process imports everything
once and forks the runs, which get a real SIGKILL, one of two ranks alone or both, and are started
again until they have finished. Compared: every row of metrics.csv (but for the times), the digest
of weights and optimiser in the last checkpoint, and the bundle's weights.
"""

import argparse
import contextlib
import csv
import hashlib
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from page import commit
from PIL import Image

from medvlp.data.manifest import write_manifest
from medvlp.train.checkpoint import pack, read_checkpoint
from medvlp.train.fit import train_run

TIMES = ("samples_per_s", "data_wait")
VARIANTS = {
    "plain": [],
    "2 workers": ["data.workers=2"],
    "accumulation": ["trainer.accumulate=2"],
    "every step saved": ["trainer.save_every=1"],
    "saved by a thread": ["trainer.save_every=1", "trainer.save_async=true"],
    "micro-batches, average": ["trainer.micro_batch=3", "optim.ema={decay: 0.9}"],
    "2 ranks": ["trainer.devices=2"],
}


def write_data(folder: Path, patients: int = 48) -> Path:
    """X-rays with a bright side, a sentence that names it, and a split."""
    draw = np.random.default_rng(0)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("samples", "texts", "labels", "subsets")
    }
    sources = []
    for i in range(patients):
        side = "left" if i % 2 else "right"
        pixels = draw.integers(0, 60, (32, 32)).astype(np.uint8)
        pixels[:, 16 * (i % 2) : 16 * (i % 2) + 16] += 120
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        sample = {
            "sample": f"s{i:02}", "domain": "cxr", "patient": f"p{i:02}", "source": f"src{i}",
            "sha256": f"{i:064x}", "kind": "image", "split": "valid" if i % 3 == 0 else "train",
        }  # fmt: skip
        tables["samples"].append(sample)
        for order, text in enumerate((f"opacity on the {side} side", f"the {side} lung is dense")):
            tables["texts"].append({
                "sample": f"s{i:02}", "node": f"s{i:02}n{order}", "level": "sentence",
                "source": "findings", "order": order, "text": text,
            })  # fmt: skip
    write_manifest(folder / "manifest", tables, sources, {"key_id": "bench", "counts": {}},
                   key=b"k" * 32)  # fmt: skip
    return folder / "manifest"


def write_config(folder: Path, steps: int) -> Path:
    """The runs' experiment."""
    values = {
        "domain": "cxr",
        "data": {
            "manifests": [str(write_data(folder))], "batch_size": 12, "cache": "memory",
            "tokenizer": {"vocab_size": 300}, "texts": {"levels": ["sentence"], "choose": "random"},
        },
        "preprocess": {"kind": "cxr", "size": 32},
        "image": {"kind": "vit", "size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16, "dropout": 0.1},
        "model": {"embed": 8},
        "objectives": [{"kind": "clip"}],
        "optim": {"lr": 0.005, "warmup_steps": 2},
        "trainer": {
            "steps": steps, "accelerator": "cpu", "log_every": 1, "valid_every": 8,
            "save_every": 5,
        },
    }  # fmt: skip
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def in_a_child(work: Callable[[], object]) -> None:
    """Do something that starts threads, after which this process could not be forked safely."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(config: Path, options: list[str], run: Path) -> list[int]:
    """Fork the run's ranks, as torchrun would start them; their process ids."""
    ranks = 2 if "trainer.devices=2" in options else 1
    port = free_port()
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            run_rank(config, options, run, rank, ranks, port)
        children.append(child)
    return children


def run_rank(config: Path, options: list[str], run: Path, rank: int, ranks: int, port: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)  # Its workers are killed with it.
        quiet = os.open(run.parent / f"{run.name}.{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if ranks > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
                LOCAL_WORLD_SIZE=str(ranks), GROUP_RANK="0", TORCHELASTIC_RUN_ID="bench",
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
        train_run(config, options, run)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def finish(children: list[int], limit_s: float) -> bool:
    """Wait for all ranks; whether they ended before the limit.

    Raises:
        RuntimeError: A rank that nobody killed failed.
    """
    codes, until = {}, time.monotonic() + limit_s
    while len(codes) < len(children) and time.monotonic() < until:
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    if any(codes.values()):
        raise RuntimeError(f"exit codes {sorted(codes.values())} without a kill")
    return len(codes) == len(children)


def kill(children: list[int], draw: random.Random) -> None:
    """SIGKILL to the ranks; of several, sometimes one has a moment in which it is alone."""
    order = draw.sample(children, len(children))
    for child in order:
        if child != order[0] and draw.random() < 0.5:
            time.sleep(draw.uniform(0, 0.3))
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                send(child, signal.SIGKILL)
        # One of several may have ended before.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def outcome(run: Path) -> tuple[list[tuple[str, ...]], str, str]:
    """What must be equal: the rows, the last state, the bundle's weights."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [tuple(v for k, v in r.items() if k not in TIMES) for r in csv.DictReader(file)]
    state = read_checkpoint(run / "checkpoints" / "last.safetensors")
    kept = pack({name: state[name] for name in ("state_dict", "optimizer_states", "lr_schedulers")})
    digest = hashlib.sha256(kept.tree.encode())
    for tensor in kept.tensors.values():
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    weights = hashlib.sha256((run / "bundle" / "model.safetensors").read_bytes()).hexdigest()
    return rows, digest.hexdigest(), weights


class Variant:
    """One kind of run: without a kill first, then with as many as wanted."""

    def __init__(self, folder: Path, config: Path, name: str) -> None:
        self.folder = folder / name.replace(" ", "-").replace(",", "")
        self.folder.mkdir()
        self.config, self.options = config, VARIANTS[name]
        self.counts = {"kills": 0, "in a save": 0, "runs": 0, "differing": 0, "stuck": 0}
        begin = time.monotonic()
        straight = self.folder / "straight"
        if not finish(start(config, self.options, straight), 600):
            raise RuntimeError((self.folder / "straight.0.log").read_text())
        self.whole_s = time.monotonic() - begin
        self.wanted = outcome(straight)

    def kill(self, kills: int, draw: random.Random) -> None:
        """Kill and start again, in new runs as earlier ones finish, then finish the last."""
        run = self._next()
        while self.counts["kills"] < kills:
            children = start(self.config, self.options, run)
            if self._ends(children, run, draw.uniform(0.02, 1.0) * self.whole_s):
                run = self._check(run)
                continue
            kill(children, draw)
            self.counts["kills"] += 1
            self.counts["in a save"] += bool([*run.glob("checkpoints/.*.tmp")])
        if self._ends(start(self.config, self.options, run), run, 600):
            self._check(run)
        else:
            self.counts["stuck"] += 1

    def _ends(self, children: list[int], run: Path, limit_s: float) -> bool:
        try:
            return finish(children, limit_s)
        except RuntimeError as error:
            logs = [log.read_text() for log in sorted(self.folder.glob(f"{run.name}.*.log"))]
            raise RuntimeError("\n".join([str(error), *logs])) from error

    def _next(self) -> Path:
        self.counts["runs"] += 1
        return self.folder / f"run{self.counts['runs']}"

    def _check(self, run: Path) -> Path:
        left = list(run.rglob("*.tmp"))
        self.counts["differing"] += outcome(run) != self.wanted or bool(left)
        return self._next()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    rows = ["| variant | kills | of them in a save | differing | did not finish |",
            "|---|---|---|---|---|"]  # fmt: skip
    total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "experiment.yaml"
        in_a_child(lambda: write_config(folder, args.steps))
        share, more = divmod(args.kills, len(VARIANTS))
        for k, variant in enumerate(VARIANTS):
            tried = Variant(folder, config, variant)
            tried.kill(share + (k < more), draw)
            c = tried.counts
            total += c["kills"]
            rows.append(f"| {variant} | {c['kills']} | {c['in a save']} | {c['differing']} | "
                        f"{c['stuck']} |")  # fmt: skip
    command = (
        f"`python benchmarks/bench_resume.py --kills {args.kills} --steps {args.steps} "
        f"--seed {args.seed}`, {os.cpu_count()} cores, commit {commit()}; {total} kills"
    )
    text = "# Training that is killed and goes on\n\n" + command + "\n\n" + "\n".join(rows) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
