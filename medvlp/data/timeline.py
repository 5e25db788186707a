"""Which texts of a recording overlap a span of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvlp.data.manifest import Manifest
from medvlp.data.text_nodes import TextNode, text_nodes
from medvlp.data.text_policy import AlongPolicy, TextPolicy


class Timelines:
    """The timed texts of a manifest's recordings, in the order of time.

    Args:
        manifest: Whose texts.
        policy: Which of them; None for none.
    """

    def __init__(self, manifest: Manifest, policy: AlongPolicy | None) -> None:
        self._nodes: dict[str, list[TextNode]] = {}
        self._spans: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        if policy is None:
            return
        wanted = TextPolicy(levels=policy.levels, sources=policy.sources)
        for sample, nodes in text_nodes(manifest, wanted).items():
            timed = [
                (node.start_s, node.end_s, node)
                for node in nodes
                if node.start_s is not None and node.end_s is not None
            ]
            timed.sort(key=lambda each: each[:2])
            self._nodes[sample] = [node for *_, node in timed]
            start_I, end_I = (np.array([each[k] for each in timed], np.float64) for k in (0, 1))
            self._spans[sample] = start_I, end_I

    def beside(
        self, sample: str, own: tuple[TextNode, ...], span: tuple[float, float] | None
    ) -> tuple[TextNode, ...]:
        """The texts that overlap `span` for more than a moment, `own` ones left out.

        Args:
            sample: The recording.
            own: The texts beside which they stand; beside none stands nothing.
            span: Start and end in seconds; None for the whole recording.
        """
        nodes = self._nodes.get(sample)
        if nodes is None or not own:
            return ()
        start_I, end_I = self._spans[sample]
        inside_I = np.ones(len(nodes), bool)
        if span is not None:
            inside_I = (start_I < span[1]) & (end_I > span[0])
        names = {node.node for node in own}
        return tuple(nodes[i] for i in np.flatnonzero(inside_I) if nodes[i].node not in names)
