"""A language model's whole life as a graph of Dagster assets.

    raw/<source> -> documents -> filtered_documents -> scrubbed_documents -> signatures -> corpus_snapshot      curation
                                                             |                |        \\
                                                          chunks     sft_dataset   evaluation_suites
                                                             |                |             |
    retrieval                                     vector_index   sft_checkpoint          |             training
                                                             |                |             |
                                                  retrieval_report    candidate_model -> eval_report    evaluation
                                                             |                               |
                                                             +-----------> release <- promotion_decision
                                                                              |
    serving                                                           deployed_endpoint
                                                                              |
    monitoring              interactions -> drift_report, quality_report, usage_report
                                                 |
                               drift_retrain sensor -> job `retrain`                       governance beside them all
"""
