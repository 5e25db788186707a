"""What is said about a phantom procedure: abstract, phases, key steps and a surgeon's talk.

The talk is what a speech recogniser makes of it: fillers, lost and doubled words, no punctuation,
spans that come early or late, and now and then words about something else altogether.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvlp.phantom.grammar import pick, say
from medvlp_video.phantom_story import Deed, Story

PHASE_WORDS: dict[str, str] = {
    "preparation": (
        "[preparation of the operative field|preparation, freeing the omentum"
        "|exposure and preparation of the gallbladder region]"
    ),
    "calot triangle dissection": (
        "[dissection of calot's triangle|calot triangle dissection"
        "|opening up the fat of the hepatocystic triangle of calot]"
    ),
    "clipping and cutting": (
        "[clipping and cutting of duct and artery|clipping and dividing the cystic structures"
        "|placing clips and cutting between them]"
    ),
    "gallbladder dissection": (
        "[dissection of the gallbladder from the liver bed"
        "|gallbladder dissection off the liver|taking the gallbladder down from its bed]"
    ),
    "gallbladder packaging": (
        "[packaging of the gallbladder into the specimen bag|gallbladder packaging in the bag"
        "|putting the specimen into the retrieval bag]"
    ),
    "cleaning and coagulation": (
        "[cleaning and coagulation of the liver bed|washing out and coagulating the bleeding bed"
        "|irrigation, cleaning and haemostasis]"
    ),
    "gallbladder extraction": (
        "[extraction of the gallbladder through the port|gallbladder extraction at the abdominal"
        " wall|pulling the closed bag out through the trocar]"
    ),
}
"""How people speak of each phase."""

STEP_WORDS: dict[str, str] = {
    "adhesion release": "[release|division] of adhesions around the omentum",
    "gallbladder exposure": "[exposure of the gallbladder|lifting of the omentum] with the grasper",
    "peritoneal opening": "opening of the peritoneum over calot's triangle",
    "duct and artery isolation": "[isolation|skeletonisation] of cystic duct and artery in the fat",
    "duct division": "[clipping and division|division between clips] of the cystic duct",
    "artery division": "[clipping and division|division between clips] of the cystic artery",
    "bed dissection": "dissection of the gallbladder bed with the hook",
    "fundus release": "release of the fundus [off|from] the liver",
    "bag placement": "placement of the specimen bag",
    "bagging": "[bagging of|dropping] the gallbladder [|into the open bag]",
    "lavage": "[lavage|irrigation] and suction of the liver bed",
    "haemostasis": "haemostasis of the bed with the bipolar",
    "bag closure": "closure of the [specimen|retrieval] bag",
    "port removal": "[removal|withdrawal] of the port with the bag",
}

TOOL_WORDS: dict[str, str] = {
    "grasper": "[grasper|grasping forceps]",
    "hook": "[hook|hook cautery|l hook]",
    "scissors": "[scissors|laparoscopic scissors]",
    "clipper": "[clip applier|clipper]",
    "bipolar": "[bipolar|bipolar forceps]",
    "irrigator": "[irrigator|suction irrigator]",
}

VERB_WORDS: dict[str, str] = {
    "grasp": "[grasping|holding]",
    "retract": "[retracting|pulling away|lifting]",
    "dissect": "[dissecting|freeing]",
    "coagulate": "[coagulating|burning]",
    "clip": "[clipping|putting a clip on]",
    "cut": "[cutting|dividing]",
    "aspirate": "[aspirating|sucking out]",
    "irrigate": "[irrigating|washing]",
    "pack": "[packing|bagging]",
}

_TALK = (
    "[now|here|so] we are {verb} the {target} with the {tool}",
    "[i am|we keep] {verb} the {target} [during|in] the {phase}",
    "this is the {phase} and the {tool} is {verb} the {target}",
    "[we go on with|we are in] the {phase} [|, {verb} the {target}]",
    "the {tool} [comes in|is used] for {verb} the {target}",
)

_OFF_TOPIC = (
    "can we have the [lights|table] [down|up] a little please",
    "[who is|is anybody] on call [tonight|this weekend]",
    "the [monitor|insufflator] has been [fine|noisy] all day",
    "let us [say hello to|thank] our visitors [today|in the gallery]",
    "this patient had [no earlier surgery|some pain for months] before coming to us",
)

_FILLERS = ("uh", "um", "okay", "you know", "so", "right")


@dataclass(frozen=True, kw_only=True)
class Text:
    """One node of the text tree, and what the phantom knows about it."""

    node: str
    parent: str
    level: str
    source: str
    start_s: float
    end_s: float
    text: str
    confidence: float | None
    fault: str
    """``none``, ``misaligned`` (the span belongs to another moment) or ``off-topic``."""
    true_start_s: float
    true_end_s: float


def tell(rng: np.random.Generator, story: Story) -> list[Text]:
    """The text tree of a procedure: abstract, phases, key steps, talk."""
    whole = (0.0, story.duration_s)
    texts = [_plain("procedure", "", "procedure", "abstract", whole, _abstract(rng, story))]
    for i, phase in enumerate(story.phases):
        words = say(rng, PHASE_WORDS[phase.name])
        span = (phase.start_s, phase.end_s)
        texts.append(_plain(f"phase{i}", "procedure", "phase", "keystep", span, words))
    for i, step in enumerate(story.steps):
        words = say(rng, STEP_WORDS[step.name])
        span = (step.start_s, step.end_s)
        parent = f"phase{story.step_phase[i]}"
        texts.append(_plain(f"step{i}", parent, "step", "keystep", span, words))
    for i, deed in enumerate(story.deeds):
        if rng.random() < 0.9:
            texts.append(_talk(rng, story, deed, f"clip{i}"))
    return texts


def _plain(
    node: str, parent: str, level: str, source: str, span: tuple[float, float], text: str
) -> Text:
    return Text(
        node=node,
        parent=parent,
        level=level,
        source=source,
        start_s=span[0],
        end_s=span[1],
        text=text[0].upper() + text[1:] + ".",
        confidence=None,
        fault="none",
        true_start_s=span[0],
        true_end_s=span[1],
    )


def _abstract(rng: np.random.Generator, story: Story) -> str:
    names = list(dict.fromkeys(phase.name for phase in story.phases))
    told = [say(rng, PHASE_WORDS[name]).lower() for name in names if rng.random() < 0.6]
    opening = say(rng, "laparoscopic cholecystectomy[, edited recording| in an adult patient|]")
    return f"{opening}, showing " + "; ".join(told or ["parts of the operation"])


def _talk(rng: np.random.Generator, story: Story, deed: Deed, node: str) -> Text:
    fault = pick(rng, ("none",) * 17 + ("misaligned",) * 2 + ("off-topic",))
    shift_s = rng.normal(0.0, 0.4, 2)
    if fault == "misaligned":
        shift_s = shift_s + rng.choice([-1, 1]) * rng.uniform(4.0, 9.0)
    start_s, end_s = np.clip(np.array([deed.start_s, deed.end_s]) + shift_s, 0, story.duration_s)
    if end_s - start_s < 0.5:
        start_s, end_s = deed.start_s, deed.end_s
        fault = "none" if fault == "misaligned" else fault
    words = say(rng, pick(rng, _OFF_TOPIC)) if fault == "off-topic" else _describe(rng, story, deed)
    heard, kept = as_heard(rng, words)
    return Text(
        node=node,
        parent=f"step{deed.step}",
        level="clip",
        source="asr:phantom",
        start_s=round(float(start_s), 2),
        end_s=round(float(end_s), 2),
        text=heard,
        confidence=round(float(np.clip(kept * rng.uniform(0.85, 1.0), 0.05, 1.0)), 3),
        fault=fault,
        true_start_s=deed.start_s,
        true_end_s=deed.end_s,
    )


def _describe(rng: np.random.Generator, story: Story, deed: Deed) -> str:
    tool, verb, target = deed.action
    return say(
        rng,
        pick(rng, _TALK),
        tool=say(rng, TOOL_WORDS[tool]),
        verb=say(rng, VERB_WORDS[verb]),
        target=target,
        phase=say(rng, PHASE_WORDS[story.phases[deed.phase].name]),
    )


def as_heard(rng: np.random.Generator, text: str) -> tuple[str, float]:
    """`text` as a speech recogniser writes it down, and the fraction of words it got right."""
    words = text.lower().replace(",", "").replace(".", "").split()
    heard: list[str] = []
    kept = 0
    for word in words:
        if rng.random() < 0.06:
            heard.append(pick(rng, _FILLERS))
        if rng.random() < 0.05:
            continue
        kept += 1
        heard += [word] * (2 if rng.random() < 0.02 else 1)
    return " ".join(heard or words[:1]), kept / len(words)
