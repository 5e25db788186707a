"""How surgical a sentence is, what it is about, and where it turns to something new."""

import pytest
import yaml

from medvlp.errors import ConfigError
from medvlp_video.narration.lexicon import load_lexicon, stem, stems_of

ENGLISH = load_lexicon()
SMALL = {
    "language": "xx",
    "surgical": {"a": {"strong": ["hook", "cystic duct", "duct"], "weak": ["cut", "clip"],
                       "endings": ["ectomy"]}},
    "off_topic": {"b": {"strong": ["coffee"], "weak": ["please"]}},
    "markers": {"strong": ["next step"], "weak": ["now"]},
    "stop": ["the"],
}  # fmt: skip


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return load_lexicon(tmp_path / "small.yaml")


@pytest.mark.parametrize(
    ("text", "surgical", "off_topic"),
    [
        ("", 0, 0),
        ("the hook", 1, 0),
        ("hooks, Hook and HOOKED", 1, 0),
        ("the cystic ducts", 1, 0),
        ("the cystic duct and the duct", 2, 0),
        ("cutting and clipping", 1, 0),
        ("splenectomies by hook", 2, 0),
        ("the hook, please", 1, 0.5),
        ("coffee please and coffee", 0, 1.5),
    ],
)
def test_the_score_is_as_written(small, text, surgical, off_topic):
    weighed = small.weigh(text)
    assert weighed.score == pytest.approx((1 - 2**-surgical) * 2**-off_topic)
    assert weighed.off_topic == off_topic


def test_one_strong_off_topic_term_outweighs_any_number_of_surgical_ones(small):
    assert small.weigh("hook cystic duct cut clip duct lobectomy coffee").score < 0.5


def test_turning_to_something_new(small):
    assert small.turn("So the next steps are these") == 1
    assert small.turn("Now we cut") == 0.5
    assert small.turn("We cut it there right now") == 0
    assert small.turn("we cut it very slowly here and wait for the next step") == 0


def test_topics_leave_out_words_that_tell_none(small):
    assert small.topic("The hooks, 5 hooks: the duct") == {"hook": 2, "duct": 1}


def test_forms_of_a_word_are_alike():
    for forms in (
        "clip clips clipped clipping", "divide divides divided dividing", "artery arteries",
        "mass masses", "pull pulled pulling", "carry carried carries", "free freeing",
        "biopsy biopsies", "bleed bleeding",
    ):  # fmt: skip
        assert len({stem(word) for word in forms.split()}) == 1, forms
    # Words that must not become another.
    assert (
        len(
            set(
                map(
                    stem,
                    ["by", "bye", "the", "their", "uterus", "pelvis", "gas", "thing", "string"],
                )
            )
        )
        == 9
    )
    assert stems_of("Calot's") == ["calot"]


SURGICAL = (
    "we are now opening the peritoneum over the hepatocystic triangle",
    "the stapler is fired across the base of the appendix",
    "an incision is made at the limbus and viscoelastic fills the anterior chamber",
    "two lymph nodes are taken together with the mesorectum",
    "here is some oozing which stops after bipolar coagulation",
    "the mesh is fixed with three tackers to the pubic bone",
    "drilling of the femoral tunnel",
    "the myoma is enucleated and the uterus closed in two layers",
)
CHATTER = (
    "good morning and welcome to this session",
    "we all met in Vienna two years ago",
    "is anybody taking notes",
    "thanks to the company that gave us the camera and the stapler",
    "he is a sixty year old man with a history of liver disease",
    "the next train leaves at nine",
    "please like the video and subscribe for more on the gallbladder",
    "I will be on holiday when the paper appears",
)


@pytest.mark.parametrize("text", SURGICAL)
def test_english_knows_operations(text):
    assert ENGLISH.weigh(text).score >= 0.5


@pytest.mark.parametrize("text", CHATTER)
def test_english_knows_chatter(text):
    assert ENGLISH.weigh(text).score < 0.5


def test_a_term_stands_once_in_a_lexicon():
    """A term that is surgical and off-topic would count as whichever comes first."""
    where = {}
    for group in (ENGLISH.surgical, ENGLISH.off_topic):
        for name, terms in group.items():
            for term, weight in terms.weighted:
                where.setdefault(tuple(stems_of(term)), set()).add(group is ENGLISH.surgical)
                assert stems_of(term), (name, term, weight)
    assert [term for term, groups in where.items() if len(groups) > 1] == []


@pytest.mark.parametrize(
    "change",
    [{"surgical": {}}, {"surgical": {"a": {}}}, {"extra": 1}, {"stop": [True]}, {"language": None}],
)
def test_a_lexicon_of_no_use_is_refused(tmp_path, change):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**SMALL, **change}))
    with pytest.raises(ConfigError, match=r"own\.yaml"):
        load_lexicon(tmp_path / "own.yaml")
