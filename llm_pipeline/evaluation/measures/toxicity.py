"""How abusive the worst line of the answer is, by the rules and the model that filter the corpus; 0 for what is not."""

from __future__ import annotations

from functools import cache

from llm_pipeline.curation.quality_policy import POLICY, QualityPolicy, load_policy
from llm_pipeline.evaluation.measure import Outputs, Row

LOWER_IS_BETTER = True


def score(row: Row, outputs: Outputs) -> float:
    from llm_pipeline.curation.quality_view import View
    from llm_pipeline.curation.toxicity import toxicity

    return round(float(toxicity(View([outputs.text]), [True], _policy().toxicity)[0]), 6)


@cache
def _policy() -> QualityPolicy:
    return load_policy(POLICY)
