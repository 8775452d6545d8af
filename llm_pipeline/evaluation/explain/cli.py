"""`llm-pipeline explain`: why a model answers what it does, as JSON and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_pipeline.shell import HomeOption, JsonOption, open_home, show


def explain(
    model: Annotated[Path, typer.Option(help="Folder of a model.")],
    question: Annotated[str, typer.Option(help="What the model is asked.")],
    out: Annotated[Path, typer.Option(help="Folder for explanation.json and explanation.html.")],
    context: Annotated[list[str] | None, typer.Option(help="A passage to answer from; may be given several times.")] = None,
    answer: Annotated[str | None, typer.Option(help="The answer to explain; default: what the model says.")] = None,
    contrast: Annotated[str | None, typer.Option(help="Another answer: why not this one?")] = None,
    training: Annotated[Path | None, typer.Option(exists=True, help="Training rows {id, messages} as JSONL, to find the nearest.")] = None,
    prompt: Annotated[str, typer.Option(help="A prompt of data/prompts by name, or a YAML file.")] = "answer",
    most_steps: Annotated[
        int, typer.Option(min=2, help="Integrated gradients double their steps until they add up, at most to this.")
    ] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the model's own answer.")] = 40,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain an answer: token attributions, occlusion, attention rollout, "why this and not that", nearest training turns.

    Example: llm-pipeline explain --model data/models/tiny_base --question "What is the fee?" --context "The fee is $5." --out /tmp/why
    """
    from llm_pipeline.evaluation.explain.build import Asked, write
    from llm_pipeline.evaluation.explain.build import explain as run
    from llm_pipeline.evaluation.explain.neighbours import read_turns
    from llm_pipeline.evaluation.explain.reading import Reader
    from llm_pipeline.prompts import find_file
    from llm_pipeline.retrieval.embedding import Embedder
    from llm_pipeline.retrieval.embedding_cache import EmbeddingCache

    turns = read_turns(training) if training else []
    embed = EmbeddingCache(open_home(home).indexes / "cache", Embedder()).embed if turns else None
    asked = Asked(question, tuple(context or ()), answer, contrast, most_steps, max_new_tokens)
    wording, reader = find_file(prompt).prompt, Reader(model)
    found = run(
        reader, wording, asked, turns, embed, lambda done, total: typer.echo(f"gradients: answer token {done} of {total}", err=True)
    )
    found |= {"model": str(model)}
    write(out, found)
    if as_json:
        show(found, True)
        return
    strong = sorted((token for token in found["tokens"] if not token["control"]), key=lambda t: -t["integrated_gradients"])[:5]
    lines = {
        "answer": found["answer"],
        "log-probability": f"{found['log_probability']['full']:.2f}",
        "strongest tokens": [f"{token['text']!r} {token['integrated_gradients']:+.2f}" for token in strong],
        "completeness": f"delta {found['log_probability']['delta']:+.3f} of {found['log_probability']['of']:.2f}",
    }
    lines |= {"nearest rows": [f"{one['row']} {one['similarity']:.2f}" for one in found["neighbours"][:3]]} if turns else {}
    show(lines | {"page": str(out / "explanation.html")}, False)
