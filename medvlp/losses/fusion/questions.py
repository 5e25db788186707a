"""Questions about labels, as sequences of tokens: begin, question, end, answer, end.

Shape letters: B samples, L labels, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from medvlp.config import STRICT
from medvlp.data.batch import TokenIds
from medvlp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionWords:
    """How a label is asked for; the words of another language may stand here."""

    question: str = "Is there {name}?"
    """With the label's name, its underscores as blanks."""

    affirmed: str = "yes"
    denied: str = "no"

    def __post_init__(self) -> None:
        if "{name}" not in self.question:
            raise ValueError("question has no place for {name}")

    def ask(self, label: str) -> str:
        """The question about a label.

        >>> QuestionWords().ask("pleural_effusion")
        'Is there pleural effusion?'
        """
        return self.question.replace("{name}", label.replace("_", " "))


class LabelQuestions(nn.Module):
    """The sequences of all labels and both answers.

    Args:
        words: How is asked.
        labels: The names.
        tokens: The tokenizer's ids.
        longest: The most tokens of a sequence.

    Raises:
        ConfigError: There is no label, or a question is too long.
    """

    ids_LAT: Tensor
    """Denied, affirmed along A."""

    learnt_LAT: Tensor

    def __init__(
        self, words: QuestionWords, labels: Sequence[str], tokens: TokenIds, longest: int
    ) -> None:
        super().__init__()
        if not labels:
            raise ConfigError(
                "objective fusion: answering asks about labels, and the data has none",
                remedy="name some in data.labels, or set answering to 0",
            )
        pairs = [
            (_ids(tokens, words.ask(label)), _ids(tokens, answer)[1:])
            for label in labels
            for answer in (words.denied, words.affirmed)
        ]
        if max(len(asked) + len(answer) for asked, answer in pairs) > longest:
            raise ConfigError(
                "objective fusion: a label's question is longer than decoder.max_tokens",
                remedy="raise decoder.max_tokens",
            )
        ids_XT = pad_sequence([torch.tensor(q + a) for q, a in pairs], batch_first=True)
        learnt_XT = pad_sequence(
            [torch.tensor([False] * len(q) + [True] * len(a)) for q, a in pairs], batch_first=True
        )
        # They follow from names and tokenizer: no weights, and no part of a bundle's.
        shape = (len(labels), 2, -1)
        self.register_buffer("ids_LAT", ids_XT.view(shape), persistent=False)
        self.register_buffer("learnt_LAT", learnt_XT.view(shape), persistent=False)

    def draw(self, labels_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A question for each sample of which a label is known to be present or absent.

        Draws from torch's default generator, every such label alike.

        Returns:
            The samples' rows (K,), the sequences (K,T), and what is learnt of them (K,T).
        """
        known_BL = (labels_BL == 0) | (labels_BL == 1)
        chosen_B = torch.rand(labels_BL.shape, device=labels_BL.device)
        chosen_B = chosen_B.masked_fill(~known_BL, -1.0).argmax(1)
        row_K = known_BL.any(1).nonzero()[:, 0]
        label_K = chosen_B[row_K]
        answer_K = labels_BL[row_K, label_K].long()
        return row_K, self.ids_LAT[label_K, answer_K], self.learnt_LAT[label_K, answer_K]


def _ids(tokens: TokenIds, text: str) -> list[int]:
    assert tokens.encode is not None
    ids: list[int] = tokens.encode([text])[0][0].tolist()
    return ids
