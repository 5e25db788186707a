import pytest

from medvlp.data.sides import load_side_words
from medvlp.errors import ConfigError

WORDS = load_side_words()


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left pleural effusion.", "Right pleural effusion."),
        ("LEFT lung and right base", "RIGHT lung and left base"),
        ("left-sided chest tube; right lung clear", "right-sided chest tube; left lung clear"),
        ("RUL opacity, LLL collapse", "LUL opacity, RLL collapse"),
        ("The L lung base and R IJ line", "The R lung base and L IJ line"),
        ("Rt. hilum", "Lt. hilum"),
        ("Dextroscoliosis of the thoracic spine", "Levoscoliosis of the thoracic spine"),
        ("Upright view, bilateral effusions", "Upright view, bilateral effusions"),
        ("L1 compression deformity, bright nodule", "L1 compression deformity, bright nodule"),
        ("Aortic calcification. Left effusion.", "Aortic calcification. Right effusion."),
        ("left_lung", "right_lung"),
        ("", ""),
    ],
)
def test_left_and_right_change_places_and_twice_is_as_before(text, mirrored):
    assert WORDS.swap(text) == mirrored
    assert WORDS.swap(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "Right-sided aortic arch.",
        "Situs inversus.",
        "Dextrocardia with a normal mediastinum.",
        "Lead in the right ventricle.",
        "Left atrial enlargement.",
        "Right middle lobe pneumonia.",
        "Lingular opacity.",
        "RML atelectasis",
        "The drain was left in place.",
        "Improved right away.",
        "On 5 L oxygen, effusion",
        "R/O pneumonia",
        "Degenerative change of the L-spine",
        "Effusions, R > L.",
        "opacity at the l base",
        "middle_lobe",
        "left_atrium",
    ],
)
def test_what_has_no_safe_mirror_image_has_none(text):
    assert WORDS.swap(text) is None


def test_which_texts_name_a_side():
    for text in ("left base", "R base", "LUL", "right atrium"):
        assert WORDS.names_side(text)
    for text in ("bilateral", "bright", "Lungs are clear", ""):
        assert not WORDS.names_side(text)


def test_another_language_is_a_file_of_its_own(tmp_path):
    file = tmp_path / "de.yaml"
    file.write_text("pairs: [[links, rechts], [linksseitig, rechtsseitig]]\nrefuse: [Herz*]")
    words = load_side_words(file)
    assert words.swap("Erguss links, Lunge RECHTS frei") == "Erguss rechts, Lunge LINKS frei"
    assert words.swap("Herzspitze links") is None
    assert words.swap("R base") == "R base"
    assert not words.names_side("left effusion")
    for text in ("pairs: []", "pairs: [[a]]", "pairs: [[a, b]]\nletters: [L]", "words: {}"):
        other = tmp_path / f"{len(text)}.yaml"
        other.write_text(text)
        with pytest.raises(ConfigError):
            load_side_words(other)
