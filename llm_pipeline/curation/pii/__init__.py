"""Personal data: found by rules with checksums, context and name lists, replaced as a policy says, never written to a ledger.

texts -> anchors (Rust, one pass) -> windows -> finders (Python: shape, check digits, context, name lists) -> spans -> scrubbed texts
"""

from llm_pipeline.curation.pii.policy import PiiPolicy, load_policy
from llm_pipeline.curation.pii.scan import Span, scan_texts
from llm_pipeline.curation.pii.scrub import scrub_messages, scrub_texts

__all__ = ["PiiPolicy", "Span", "load_policy", "scan_texts", "scrub_messages", "scrub_texts"]
