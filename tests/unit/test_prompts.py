import pytest

from medvlp.data.prompts import Prompts, PromptSet, load_prompts, prompts_from_labels
from medvlp.errors import ConfigError

GOOD = """
mode: independent
labels:
  Edema: {positive: [Pulmonary edema.], negative: [No edema.]}
  Mass: {positive: [A mass., A lesion.], negative: [No mass.]}
"""


def write(tmp_path, text):
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    return file


def test_a_prompt_file(tmp_path):
    prompts = load_prompts(write(tmp_path, GOOD))
    assert prompts.names == ("Edema", "Mass")
    assert prompts.labels["Mass"] == Prompts(
        positive=("A mass.", "A lesion."), negative=("No mass.",)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("mode: independent", "labels"),
        ("mode: independent\nlabels: {}", "labels is empty"),
        ("mode: some\nlabels: {a: {positive: [x]}}", "mode"),
        (GOOD + "colour: red", "colour"),
        ("mode: exclusive\nlabels: {a: {positive: []}, b: {positive: [x]}}", "at least one"),
        ("mode: exclusive\nlabels: {a: {negative: [x]}, b: {positive: [x]}}", "positive"),
        ("mode: exclusive\nlabels: {a: {positive: [x]}}", "at least two"),
        ("mode: independent\nlabels: {a: {positive: [x]}}", "negative prompts: a"),
        ("mode: independent\nlabels: {a: {positive: [' '], negative: [x]}}", "blank"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_prompts(write(tmp_path, text))
    assert "\n" not in caught.value.message
    assert caught.value.remedy


def test_prompts_from_labels():
    prompts = prompts_from_labels(["Pleural_Thickening", "No Finding", "COPD"])
    assert prompts.labels["Pleural_Thickening"].positive == ("Pleural thickening.",)
    assert prompts.labels["Pleural_Thickening"].negative == ("No pleural thickening.",)
    assert prompts.labels["No Finding"].negative == ("Finding.",)
    assert prompts.labels["COPD"].negative == ("No COPD.",)


@pytest.mark.parametrize("labels", [[], [" "], ["a", "a"]])
def test_labels_must_be_given_once(labels):
    with pytest.raises(ConfigError):
        prompts_from_labels(labels)


def test_the_digest_sees_words_mode_and_order():
    edema, mass = (
        Prompts(positive=("e",), negative=("n",)),
        Prompts(positive=("m",), negative=("n",)),
    )
    one = PromptSet(mode="independent", labels={"e": edema, "m": mass})
    same = PromptSet(mode="independent", labels={"e": edema, "m": mass})
    turned = PromptSet(mode="independent", labels={"m": mass, "e": edema})
    exclusive = PromptSet(mode="exclusive", labels={"e": edema, "m": mass})
    assert one.digest == same.digest
    assert len({one.digest, turned.digest, exclusive.digest}) == 3


def test_an_empty_prompt_file_at_the_command_line(tmp_path, capfd):
    from medvlp.guarded import run_guarded

    file = write(tmp_path, "")
    assert run_guarded(lambda: load_prompts(file)) == 2
    said = capfd.readouterr().err
    assert "prompts.yaml is empty" in said
    assert "remedy:" in said
