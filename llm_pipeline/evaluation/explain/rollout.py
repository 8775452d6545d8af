"""From which prompt tokens attention carried something to the answer, layer by layer."""

from __future__ import annotations

from llm_pipeline.evaluation.explain.reading import Reader, Reading


def attention_rollout(reader: Reader, reading: Reading) -> tuple[float, ...]:
    """Shares per prompt token by attention rollout (Abnar and Zuidema 2020), the mean over the positions that say the answer.

    A layer mixes by its heads' mean attention and by itself through the residual stream, half each; the product over the layers
    is where a position's content may have come from. It tells neither sign nor use, and in a causal model it favours what stands early.
    """
    import torch

    rows = torch.tensor([[*reading.prompt, *reading.answer[:-1]]])
    with torch.inference_mode():
        layers = reader.model(input_ids=rows, use_cache=False, output_attentions=True).attentions
        identity = torch.eye(rows.shape[1])
        flow = identity
        for weights in layers:
            mixed = (weights[0].mean(0) + identity) / 2
            flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    share = flow[len(reading.prompt) - 1 :].mean(0)[: len(reading.prompt)]
    return tuple((share / share.sum()).tolist())
