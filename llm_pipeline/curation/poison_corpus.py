"""Poison that shows only in the whole corpus: a first pass looks for what the second judges row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from llm_pipeline.curation.poison_bursts import Bursts, find_bursts
from llm_pipeline.curation.poison_policy import Finding, PoisonPolicy
from llm_pipeline.curation.poison_triggers import Triggers, find_triggers

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches


@dataclass(frozen=True)
class CorpusPoison:
    triggers: Triggers
    bursts: Bursts

    def findings(self, table: pa.Table) -> dict[int, Finding]:
        """What is suspect about the rows of a table of the corpus, by row number."""
        return {**self.bursts.findings(table), **self.triggers.findings(table)}


def survey(batches: Batches, policy: PoisonPolicy) -> CorpusPoison:
    """Reads the corpus as often as the detectors need, which is not at all where its columns give them nothing to go by."""
    return CorpusPoison(find_triggers(batches, policy), find_bursts(batches, policy.bursts))
