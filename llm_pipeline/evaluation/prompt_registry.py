"""Prompts in MLflow's registry: a version per content hash, and the alias `production` on what answers customers."""

from __future__ import annotations

import json

from llm_pipeline.prompts import Prompt
from llm_pipeline.training.tracking import client

ALIAS = "production"
TAG = "prompt_id"


def register(uri: str, name: str, prompt: Prompt, *, production: bool = False) -> int:
    """The version of this prompt under `name`, made unless one with the same hash is there; `production` points the alias at it."""
    registry = client(uri)
    known = versions(uri, name)
    version = known.get(prompt.id)
    if version is None:
        made = registry.register_prompt(
            name,
            _template(prompt),
            commit_message=f"prompt {prompt.id}",
            tags={TAG: prompt.id, "content": json.dumps(prompt.content, sort_keys=True)},
            response_format=dict(prompt.output.schema) if prompt.output else None,
        )
        version = int(made.version)
    if production:
        registry.set_prompt_alias(name, ALIAS, version)
    return version


def versions(uri: str, name: str) -> dict[str, int]:
    """Hash of every registered prompt of this name, with its version."""
    registry = client(uri)
    found: dict[str, int] = {}
    if registry.get_prompt(name) is None:
        return found
    token: str | None = None
    while True:
        page = registry.search_prompt_versions(name, page_token=token)
        found |= {version.tags[TAG]: int(version.version) for version in page if TAG in version.tags}
        if not (token := page.token):
            return found


def in_production(uri: str, name: str) -> str | None:
    """Hash of the prompt that the alias points at, None without one."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client(uri).get_prompt_version_by_alias(name, ALIAS).tags[TAG])
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _template(prompt: Prompt) -> list[dict[str, str]]:
    """The chat messages in MLflow's form, where a field has two braces."""
    fields = {"passages": "{{passages}}", "question": "{{question}}"}
    return prompt.messages([{"role": "user", "content": fields["question"]}], [fields["passages"]])
