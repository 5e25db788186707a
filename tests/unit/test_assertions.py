"""Hand-made sentences; [finding] in brackets is what is asked about."""

import re

import pytest

from medvlp.data.assertions import Terms, assertion, load_terms
from medvlp.errors import ConfigError

ABSENT = """
No [pneumothorax].
No focal [consolidation], [pleural effusion], or [pneumothorax].
No [pneumothorax] or [pleural effusion] is seen.
No [mass], [effusion] is identified.
There is no evidence of [pneumonia].
There is no radiographic evidence of acute [tuberculosis].
Lungs are clear without [consolidation].
Lungs are clear without [effusion] or [pneumothorax].
The lungs are free of focal [airspace disease].
Lungs are clear of [infiltrate].
Negative for [pneumothorax], [pleural effusion], or focal airspace [consolidation].
[Pneumothorax] is excluded.
[Pneumothorax] has been excluded.
[Pneumonia] is unlikely.
[Pulmonary embolism] was ruled out.
The [effusion] has resolved.
The [effusion] and the [edema] have resolved.
Interval resolution of [pulmonary edema].
Resolved right [effusion].
The left [pneumothorax] is no longer seen.
[Pneumothorax] no longer present.
The [nodule] is not seen on this study.
[Pleural effusion] not identified.
[Effusion]: none.
[Effusion]: absent.
[Masses] are absent.
There is neither [effusion] nor [pneumothorax].
The patient denies [chest pain].
There has never been a [fracture].
The heart is not [enlarged].
The heart isn't [enlarged].
No definite [nodule].
No convincing [infiltrate].
No large [effusion], small [pneumothorax], or [consolidation].
No acute [fracture] or [dislocation].
No suspicious [nodules] or [masses] are seen in the lungs.
Absence of [edema].
Complete resolution of the [infiltrate].
Findings not consistent with [pneumonia].
Findings are not suggestive of [malignancy].
Atelectasis rather than [pneumonia].
Lack of [lymphadenopathy] argues against it.
The film fails to demonstrate any [fracture].
Heart size is normal, and there is no [edema].
Small effusion, but no [pneumothorax].
Mild cardiomegaly without overt [edema].
Stable cardiomegaly, no [pneumothorax].
There is cardiomegaly with no [edema].
No [effusion], no [pneumothorax].
No evidence of active [disease] in the chest.
No [hilar adenopathy] is appreciated.
No probable [mass].
No possible [nodule].
No significant [pleural effusion] or [pneumothorax] noted.
There is not any [effusion].
No [pneumothorax] is suspected.
The previously seen [effusion] is not present today.
[Free air] is not visualized.
No [acute bony abnormality].
The [opacity] that was seen before has resolved.
w/o [effusion].
Without evidence of [failure].
The possible [effusion] has resolved.
No [effusion], [pneumothorax] or [mass], nor any [fracture].
"""

PRESENT = """
[Pneumothorax].
There is a small left [pleural effusion].
The heart is [enlarged].
No change in the left [effusion].
No significant interval change in the right [pneumothorax].
No interval change in [cardiomegaly].
Without significant change in the [nodule].
The [effusion] has not changed.
The [effusion] has not significantly changed.
The [effusion] is unchanged.
No increase in the [effusion].
Not only [edema] but also [effusion].
Not without [edema].
The [effusion] has not resolved.
The [pneumothorax] has nearly resolved, not completely resolved.
Partially resolved [pneumonia].
The [pneumonia] has almost completely resolved.
No pneumothorax, but small [effusion].
No effusion; [cardiomegaly] is stable.
No effusion; [cardiomegaly].
No pneumothorax, mild [edema].
No pneumothorax, stable [cardiomegaly].
No pneumothorax, there is [cardiomegaly].
No pneumothorax, the [heart] is large.
No pneumothorax, [cardiomegaly] is stable.
No pneumothorax and stable [cardiomegaly].
No effusion although the heart is [enlarged].
No effusion, however there is [edema].
No effusion except for small [blunting].
No acute disease other than [atelectasis].
No acute abnormality in this patient with [emphysema].
There is no effusion, with mild [edema].
Apart from [cardiomegaly], no abnormality.
Aside from [scoliosis], negative chest.
[Cardiomegaly] without effusion.
[Cardiomegaly], no effusion.
[Atelectasis] is seen, no pneumothorax.
[Scoliosis] is noted and pneumothorax is excluded.
Stable [cardiomegaly] with no edema.
[Opacity] consistent with [pneumonia].
Findings compatible with [edema].
[Nodule] in the right lung, unchanged.
[Opacity] is present in the left base; effusion is excluded.
There is an [opacity], likely atelectasis.
There is [opacity] which may represent pneumonia.
[Opacity] suspicious for pneumonia.
[Opacity] in the left base, possibly atelectasis.
[Blunting] may be due to effusion.
[Scarring] and possible nodule.
No doubt there is [edema].
No worsening of [edema].
No improvement of the [edema].
It is not surprising that [effusion] remains.
There are low volumes, no effusion; [atelectasis] remains.
The [hernia] is not well seen.
The [aorta] is calcified, and no effusion is seen.
Persistent [effusion].
Resolving [pneumonia].
Again seen is a [nodule].
Increased [opacity] since prior.
Gram negative [pneumonia].
No absence of [edema].
No longer clear, the base shows [consolidation].
The tube is not in the airway, but in the [esophagus].
Now with [effusion].
"""

UNCERTAIN = """
Possible [pneumonia].
Probable [atelectasis].
There may be a small [effusion].
Opacity may represent [pneumonia].
This could represent [pneumonia].
Opacity, likely [atelectasis].
Likely no [effusion].
Possibly no [mass].
Opacity suspicious for [malignancy].
Findings concerning for [pneumonia].
Findings worrisome for [metastasis].
Findings suggestive of [edema].
Suggestion of a [nodule].
Cannot exclude [pneumonia].
Cannot completely exclude [pneumonia].
Can't exclude [pneumonia].
Does not exclude [pneumonia].
[Pneumonia] cannot be excluded.
[Pneumonia] is not excluded.
[Pneumonia] cannot be entirely excluded.
[Pneumonia] has not been excluded.
A small [pneumothorax] is difficult to exclude.
[Pneumonia] is possible.
[Pneumonia] is likely.
[Pneumonia] is suspected.
Questionable [nodule] in the apex.
Question of [effusion].
Rule out [pneumonia].
r/o [pneumonia].
Evaluate for [pneumothorax].
[Atelectasis] versus [pneumonia].
[Atelectasis] vs [infiltrate].
[Atelectasis] vs. [infiltrate].
If [pneumonia] is suspected, CT may help.
Whether this is a [mass] is unclear.
[Pneumonia]?
? [pneumonia]
Equivocal [nodule].
[Effusion] may be present.
Presumably [scarring].
Perhaps a small [effusion].
Raises the possibility of [tuberculosis].
Suspected [fracture].
Potential [nodule].
Concern for [aspiration].
Density favored to be [atelectasis].
Opacity thought to represent [atelectasis].
Less likely [pneumonia].
No pneumothorax, possible [pneumonia].
No effusion, but [pneumonia] cannot be excluded.
No definite effusion, although a small [effusion] cannot be excluded.
Differential includes [pneumonia] and [aspiration].
Possible [pneumonia] or [aspiration].
Might be [edema].
Opacity suspected to be [pneumonia].
"""


def asked(text):
    for line in filter(None, text.split("\n")):
        bare = re.sub(r"[\[\]]", "", line)
        for number, match in enumerate(re.finditer(r"\[([^]]+)\]", line)):
            start = match.start() - 2 * number
            yield bare, (start, start + len(match[1]))


CASES = [
    (sentence, span, presence)
    for text, presence in ((ABSENT, "absent"), (PRESENT, "present"), (UNCERTAIN, "uncertain"))
    for sentence, span in asked(text)
]


@pytest.mark.parametrize(("sentence", "span", "presence"), CASES)
def test_assertion(sentence, span, presence):
    assert assertion(sentence, span) == presence


def test_there_are_enough_of_them():
    assert len(CASES) >= 150


def test_words_of_another_language():
    terms = Terms({"absent_after_term": ["kein", "keine"], "end": ["aber"]})
    sentence = "Keine Infiltrate, aber Erguss."
    assert assertion(sentence, (6, 16), terms) == "absent"
    assert assertion(sentence, (23, 29), terms) == "present"


def test_a_span_without_a_word_is_affirmed():
    assert assertion("No effusion.", (11, 12)) == "present"


def test_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "t.yaml").write_text("absent: [kein]")
    with pytest.raises(ConfigError, match="unknown kind absent"):
        load_terms(tmp_path / "t.yaml")


def test_a_long_sentence_is_no_trouble():
    sentence = "no, effusion or " * 20_000
    assert assertion(sentence, (4, 12)) == "absent"
    assert assertion(sentence, (len(sentence) - 12, len(sentence) - 4)) == "absent"
