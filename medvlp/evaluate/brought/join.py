"""Others' predictions joined to the truth of a protocol: nothing is dropped without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from medvlp.errors import InputError
from medvlp.evaluate.brought.sources import AMBIGUOUS, find_samples, split_samples
from medvlp.evaluate.brought.table import Brought, milliseconds
from medvlp.evaluate.predict import Predicted, Study, as_predictions

_KEY = ("sample", "time_ms", "name")
_SHOWN = 5


def join_brought(study: Study, predicted: Predicted, tables: Sequence[Brought]) -> Predicted:
    """`predicted` with the rows of others' models before those of the controls.

    Args:
        study: What is evaluated, and on which data.
        predicted: What the task found of the bundles, if any, and of the computed controls; the
            truth is that of its first model.
        tables: Others' predictions.

    Raises:
        InputError: A table does not give every (sample, label) exactly one usable score, names
            samples or labels that are not evaluated, or has a name that is taken.
    """
    truth = _truth(study, predicted)
    counts = dict(predicted.counts)
    parts = []
    for table in tables:
        if table.model in set(predicted.rows["model"]):
            raise InputError(
                f"a model or control is called {table.model} already", remedy="give another name"
            )
        rows, spare = _join(study, truth, table)
        parts.append(rows)
        counts[f"{table.model}_scores_without_truth"] = spare
    own = predicted.rows.filter(~pl.col("control"))
    control = predicted.rows.filter("control")
    return Predicted(
        rows=pl.concat([own, *parts, control]),
        counts=counts,
        prompts=predicted.prompts,
        items=predicted.items,
        beside=predicted.beside,
        thresholds=predicted.thresholds,
        operating=predicted.operating,
    )


def told(table: Brought) -> dict[str, Any]:
    """What `bundles.json` says of a model that came as a table."""
    return {
        "name": table.model,
        "digest": table.digest,
        "control": None,
        "scale": table.scale,
        "thresholds": {},
        "calibration": None,
        "contract": None,
        "provenance": {"brought": "table"},
    }


def _truth(study: Study, predicted: Predicted) -> pl.DataFrame:
    rows = predicted.rows
    if predicted.beside or rows.is_empty():
        raise InputError(
            f"{study.protocol}: its task predicts more than scores, or has no truth without a "
            "bundle, so that a table of scores cannot be joined",
            remedy="evaluate a bundle, or bring scores to a protocol of labels or phases",
        )
    first = (pl.col("model") == rows["model"][0]) & (pl.col("seed") == rows["seed"][0])
    return rows.filter(first).with_columns(time_ms=milliseconds("time_s"))


def _join(study: Study, truth: pl.DataFrame, table: Brought) -> tuple[pl.DataFrame, int]:
    """The model's rows of `PREDICTIONS`, and how many scores have no truth."""
    samples = split_samples(study.manifests, study.domain, study.split)
    sample_of = find_samples(table.rows["key"].drop_nulls(), samples, study.manifests)
    rows = table.rows.rename({"time_s": "time_ms"}).with_columns(
        sample=pl.col("key").replace_strict(sample_of, default=None, return_dtype=pl.String),
        seed=pl.col("seed").fill_null(study.seed),
    )
    seeds = rows.select(pl.col("seed").unique(maintain_order=True))
    wanted = truth.drop("seed", "model", "score", "control", "digest").join(seeds, how="cross")
    faults = [*_bad_rows(rows, truth, table), *_bad_pairs(rows, wanted)]
    if faults:
        raise InputError(
            f"{table.model}: {'; '.join(faults)}",
            remedy="give every sample and label of the split one score, and nothing else",
        )
    given = rows.select(*_KEY, "seed", "score")
    joined = wanted.join(
        given, on=[*_KEY, "seed"], how="left", nulls_equal=True, maintain_order="left"
    ).with_columns(model=pl.lit(table.model), control=pl.lit(False))
    return as_predictions(joined.drop("time_ms"), study), len(given) - len(joined)


def _bad_rows(rows: pl.DataFrame, truth: pl.DataFrame, table: Brought) -> list[str]:
    """What is wrong with single rows, each with its count and first places."""
    checks = {
        "unknown samples": rows["sample"].is_null(),
        "file names of several samples": rows["sample"] == AMBIGUOUS,
        "labels that are not evaluated": ~rows["name"].is_in(truth["name"].unique().implode()),
        "scores that are no number": rows["score"].is_null(),
        "given twice": rows.select(pl.struct(*_KEY, "seed").is_duplicated()).to_series()
        & rows["sample"].is_not_null()
        & (rows["sample"] != AMBIGUOUS),
    }
    if table.scale == "probability":
        checks["scores outside 0 to 1 (--scores takes them by their order)"] = ~rows[
            "score"
        ].is_between(0, 1)
    return [
        f"{count} {what} (rows {_places(rows.filter(bad))})"
        for what, bad in checks.items()
        if (count := int(bad.fill_null(False).sum()))
    ]


def _bad_pairs(rows: pl.DataFrame, wanted: pl.DataFrame) -> list[str]:
    missing = wanted.join(rows, on=[*_KEY, "seed"], how="anti", nulls_equal=True)
    if missing.is_empty():
        return []
    samples = missing["sample"].unique(maintain_order=True)
    named = ", ".join(samples.head(_SHOWN)) + (", ..." if len(samples) > _SHOWN else "")
    return [f"{len(missing)} scores of {len(samples)} samples are missing (samples {named})"]


def _places(rows: pl.DataFrame) -> str:
    places = rows["row"].unique(maintain_order=True)
    return ", ".join(map(str, places.head(_SHOWN))) + (", ..." if len(places) > _SHOWN else "")
