"""The code location: the stages in graph order, and what starts them."""

from __future__ import annotations

import dagster as dg

from llm_pipeline.defs import (
    curation,
    evaluation,
    evaluation_prompts,
    evaluation_rag,
    evaluation_safety,
    governance,
    jobs,
    monitoring,
    retrieval,
    schedules,
    sensors,
    serving,
    training,
    training_compression,
    training_search,
)
from llm_pipeline.defs.resources import HomeResource

defs = dg.Definitions.merge(
    curation.defs,
    training.defs,
    training_compression.defs,
    training_search.defs,
    evaluation.defs,
    evaluation_prompts.defs,
    evaluation_rag.defs,
    evaluation_safety.defs,
    retrieval.defs,
    serving.defs,
    monitoring.defs,
    governance.defs,
    dg.Definitions(
        jobs=jobs.jobs,
        schedules=schedules.schedules,
        sensors=sensors.sensors,
        resources={"home": HomeResource()},
        executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    ),
)
