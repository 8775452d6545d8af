"""Guardrails before and after the model: what is refused, what is struck out, and what is only noted, as a policy file says.

messages, passages -> Guards.before -> Verdict (pass, flag, redact, reask, block)
answer as it grows -> Guards.after -> OutputGuard.feed -> text that may be shown, Verdict

Names of rules begin with "input:" or "output:"; the canary and the reports count by these prefixes.
"""

from llm_pipeline.serving.guardrails.guards import Detector, Guards
from llm_pipeline.serving.guardrails.output import OutputGuard
from llm_pipeline.serving.guardrails.policy import BLOCKED_INPUT, BLOCKED_OUTPUT, Policy, build_policy, load_policy
from llm_pipeline.serving.guardrails.spans import iban, luhn
from llm_pipeline.serving.guardrails.verdict import Verdict

__all__ = [
    "BLOCKED_INPUT",
    "BLOCKED_OUTPUT",
    "Detector",
    "Guards",
    "OutputGuard",
    "Policy",
    "Verdict",
    "build_policy",
    "iban",
    "load_policy",
    "luhn",
]
