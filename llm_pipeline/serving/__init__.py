"""Serving: releases, the engine worker, the gateway in front of it, and the supervisor that moves traffic between releases.

supervisor --- engine (one per release)      ContinuousBatchingManager behind an OpenAI-compatible port
    |               ^
    `------ gateway ' ------ clients         keys, guardrails, retrieval, sticky arms, durable interactions, /metrics
               |
          endpoint.db                        releases, traffic, keys, rollouts: the desired state, polled by both
"""
