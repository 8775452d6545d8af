"""The jobs: what a day needs, what a new model needs, and what follows from either."""

from __future__ import annotations

import dagster as dg

CURATION_BY_DAY = ["documents", "filtered_documents", "scrubbed_documents", "signatures", "chunks"]
MODEL = ["corpus_snapshot", "evaluation_suites", "sft_dataset", "tokenizer", "base_model", "sft_checkpoint", "candidate_model"]
ALIGNMENT = ["preference_dataset", "preference_checkpoint"]
COMPRESSION = ["quantized_model", "distilled_checkpoint", "compression_report"]
INDEX = ["vector_index", "retrieval_report"]
GATE = ["eval_report", "rag_report", "safety_report", "promotion_decision"]
ROLLOUT = ["release", "deployed_endpoint"]
CARDS = ["data_card", "model_card", "audit_log"]
MONITORING = ["interactions", "drift_report", "quality_report", "usage_report"]

daily_curation = dg.define_asset_job(
    "daily_curation",
    selection=dg.AssetSelection.key_prefixes("raw") | dg.AssetSelection.assets(*CURATION_BY_DAY),
    description="One day from raw files to clean, PII-free, signed documents and chunks.",
    tags={"dagster/max_retries": "1"},
)
retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(*MODEL, *INDEX, *GATE, *ROLLOUT, *CARDS),
    description="Snapshot, dataset, training, evaluation, gate, release and rollout; what did not change is reused.",
    tags={"dagster/max_retries": "1"},
)
align = dg.define_asset_job(
    "align",
    selection=dg.AssetSelection.assets(*ALIGNMENT),
    description="Preference pairs from tuning rows and feedback, and the candidate trained on them.",
    tags={"dagster/max_retries": "1"},
)
compress = dg.define_asset_job(
    "compress",
    selection=dg.AssetSelection.assets(*COMPRESSION),
    description="Smaller models of the candidate: quantised and distilled, with what they cost in quality and save in size and time.",
)
prompt_change = dg.define_asset_job(
    "prompt_change",
    selection=dg.AssetSelection.assets("prompt_report"),
    description="What the prompt file would change in the answers, before it ships.",
)
search = dg.define_asset_job(
    "search",
    selection=dg.AssetSelection.assets("hyperparameter_search"),
    description="A search over hyperparameters; its best settings are overrides for `retrain`.",
)
deploy = dg.define_asset_job(
    "deploy",
    selection=dg.AssetSelection.assets(*ROLLOUT, "audit_log"),
    description="Make a release of what is newest and move traffic to it.",
)
refresh_index = dg.define_asset_job(
    "refresh_index",
    selection=dg.AssetSelection.assets(*INDEX),
    description="A new generation of the vector index over all days of chunks.",
)
monitoring_daily = dg.define_asset_job(
    "monitoring_daily",
    selection=dg.AssetSelection.assets(*MONITORING),
    description="One day of the endpoint's log: interactions, drift, quality, usage.",
    tags={"dagster/max_retries": "1"},
)
describe = dg.define_asset_job(
    "describe",
    selection=dg.AssetSelection.assets(*CARDS),
    description="Data card, model card and audit log.",
)

jobs = [daily_curation, retrain, align, compress, prompt_change, search, deploy, refresh_index, monitoring_daily, describe]
