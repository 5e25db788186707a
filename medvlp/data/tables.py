"""The manifest's tables: column names, types and the words allowed in them."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 3

TEXT_ONLY = "report"
"""The `kind` of a sample that is a report without any image."""

NO_INFORMATION = "no_information"
"""The flag of an image whose pixels all have one value."""

PATIENT_IS_IMAGE = "patient_is_image"
"""The flag where nothing names patients, so that each image counts as a patient of its own."""

PATIENT_IS_VIDEO = "patient_is_video"
"""The same of recordings."""

NO_PATIENT_ID = "no_patient_id"
"""The flag of an image that should name its patient and does not."""

LEVELS = ("report", "section", "sentence", "procedure", "phase", "step", "clip")
"""Text-node levels: the radiology tree, then the surgical tree."""

SPLITS = ("train", "valid", "test")

SAMPLES = pa.schema(
    [
        ("sample", pa.string()),
        ("domain", pa.string()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("study_order", pa.int32()),
        ("series", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.string()),
        ("kind", pa.string()),
        ("modality", pa.string()),
        ("view", pa.string()),
        ("laterality", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("spacing_mm", pa.list_(pa.float64())),
        ("fps", pa.float64()),
        ("duration_s", pa.float64()),
        ("reader", pa.string()),
        ("acquired", pa.string()),
        ("site", pa.string()),
        ("scanner", pa.string()),
        ("sex", pa.string()),
        ("age_band", pa.string()),
        ("split", pa.string()),
        ("source_split", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)
"""One row a sample. `kind`: dicom, series, nifti, array, image, video, frames, or report where
there are words but no pixels. `shape`: array order of the domain's reader, (rows, columns) or
(slices, rows, columns) or (frames, rows, columns). `flags`: remarks such as ``no_text``,
``no_patient_id``; some carry numbers, see `medvlp.data.flags`.
`view`: for X-rays a word of `medvlp.data.views`. `acquired`: ISO date, shifted per patient.
`study_order`: the place of the study among its patient's as the source counts them, where it does:
later studies have larger numbers, gaps mean nothing; see `medvlp.data.priors`. `split`: one of
`SPLITS`, the one that is used; `source_split`: the name the source itself gave, if any. `reader`:
which decoder reads it."""

TEXTS = pa.schema(
    [
        ("sample", pa.string()),
        ("node", pa.string()),
        ("parent", pa.string()),
        ("level", pa.string()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("order", pa.int32()),
        ("text", pa.string()),
        ("confidence", pa.float64()),
    ]
)
"""One row a text node. `source`: where the words come from (``report``, ``asr:<system>``,
``synthetic:<rule>``, ``findings``/``impression``/... for sections, the heading's canonical name).
`order` counts siblings from 0; roots have a null `parent`."""

LABELS = pa.schema(
    [
        ("sample", pa.string()),
        ("name", pa.string()),
        ("value", pa.float32()),
        ("source", pa.string()),
    ]
)
"""`value`: 1 present, 0 absent, -1 uncertain, null unknown."""

ENTITIES = pa.schema(
    [
        ("sample", pa.string()),
        ("node", pa.string()),
        ("anatomy", pa.string()),
        ("observation", pa.string()),
        ("presence", pa.float32()),
        ("laterality", pa.string()),
        ("severity", pa.string()),
        ("source", pa.string()),
    ]
)
"""One row an observation that a text or a table tells of a place. `node`: the sentence that says
it. `presence`: 1, 0, -1 uncertain. `laterality`: left, right or bilateral. `severity`: mild,
moderate or severe. `source`: who says so (``rules``, ``truth``, the name of a table's source)."""

REGIONS = pa.schema(
    [
        ("sample", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("geometry", pa.list_(pa.float64())),
        ("ref", pa.string()),
    ]
)
"""`kind` box: geometry (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1) in pixels or voxels of the
stored array, far edges exclusive; interval: (start_s, end_s); mask: `ref` is an opaque source id,
and geometry (value,) where that file is a label map. Of pictures also ellipse: (x0, y0, x1, y1),
the box that it fills; polygon: (x, y) of each corner, by the even-odd rule; runs: a mask without a
file, (rows, columns, then start and length of each run), starts counted row by row from 0; see
`medvlp.data.regions`. A picture's box or shape may name in `ref` the text node that it shows.
A video's boxes are (x0, y0, x1, y1) in fractions of the picture, each at the moment that `ref`
tells: ``t=12.5`` seconds."""

REJECTS = pa.schema(
    [
        ("source", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
"""One row a file that was quarantined (stage walk, read, decode, join, ...) or ignored
(stage ``ignored``); besides one for each refused row of a table (stage ``row``), which is no file.
Messages carry tag numbers and codes, never values."""

SUBSETS = pa.schema([("subset", pa.string()), ("sample", pa.string())])
"""Few-shot subsets of the training split: ``1%`` within ``5%`` within ``10%`` within ``100%`` by
patient, and ``<label>/1-shot`` within ``4-shot`` within ``16-shot`` for draws 0 to 4, such as
``<label>/4-shot/0``. A k-shot subset has k samples of different patients with the label, and k
known to be without it."""

DUPLICATES = pa.schema(
    [
        ("sample", pa.string()),
        ("other", pa.string()),
        ("kind", pa.string()),
        ("score", pa.float32()),
        ("same_patient", pa.bool_()),
        ("across_splits", pa.bool_()),
    ]
)
"""One row a pair of samples that show or say the same. `kind` exact: equal decoded pixels (equal
files where pixels are not decoded); image: near copies, `score` the agreement of their detail;
text: long reports of two patients, `score` the share of five-word runs that they have in common.
Many equal copies are each paired with the first."""

DUPLICATE_KINDS = ("exact", "image", "text")

TABLES = {
    "samples": SAMPLES,
    "texts": TEXTS,
    "labels": LABELS,
    "entities": ENTITIES,
    "regions": REGIONS,
    "rejects": REJECTS,
    "subsets": SUBSETS,
    "duplicates": DUPLICATES,
}
