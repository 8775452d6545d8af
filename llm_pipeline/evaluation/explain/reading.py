"""A model, a prompt and an answer as one row of tokens, and the answer's log-probability as a function of the prompt's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Reading:
    """What was read and what was said, in tokens."""

    text: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    """The answer's tokens with its end token, if the template has one."""
    spans: tuple[tuple[int, int], ...]
    """Where each prompt token stands in `text`."""
    fixed: tuple[bool, ...]
    """Control tokens, which no method changes."""
    pieces: tuple[str, ...]
    answer_pieces: tuple[str, ...]

    def within(self, start: int, end: int) -> list[int]:
        """The prompt tokens that touch the characters from `start` to `end`."""
        return [i for i, (a, b) in enumerate(self.spans) if a < end and b > start]


class Reader:
    """A local model opened for explanation: float32 on the CPU, eager attention (others do not give their weights away)."""

    def __init__(self, model: Path, *, threads: int | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (model / "config.json").is_file():
            raise InputError(f"{model}: not a model folder (it has no config.json)")
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
        if not self.tokenizer.chat_template or not self.tokenizer.is_fast:
            raise InputError(f"{model}: expected a fast tokenizer with a chat template")
        options = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
        self.model: Any = AutoModelForCausalLM.from_pretrained(str(model), **options).eval().requires_grad_(False)
        self.window = int(getattr(self.model.config, "max_position_embeddings", 2048))
        self.blank = self._blank()

    def _blank(self) -> int:
        """The token that stands for "nothing here": a line break, which every model has seen between texts, else padding or the end.

        From an untrained padding token the path has a sharp bend: on the shipped model 64 steps then missed 9% of what the scores
        should add up to, from the line break 1%.
        """
        line = self._ids("\n")
        for token in (line[0] if len(line) == 1 else None, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise InputError("the tokenizer has neither a token for a line break nor a padding or end token to stand for an absent one")

    def say(self, messages: Messages, max_new_tokens: int = 40) -> str:
        """The greedy answer."""
        import torch

        ids = self._ids(self._render(messages))
        if len(ids) + max_new_tokens > self.window:
            raise InputError(f"the prompt has {len(ids)} tokens, at most {self.window - max_new_tokens} fit the model's window")
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            out = self.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
                pad_token_id=self.blank, eos_token_id=self.tokenizer.eos_token_id,
            )  # fmt: skip
        return str(self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()

    def read(self, messages: Messages, answer: str) -> Reading:
        """Tokens of the prompt and of `answer` as the next turn."""
        text = self._render(messages)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        prompt, spans = encoded["input_ids"], [tuple(span) for span in encoded["offset_mapping"]]
        whole = self._ids(self._render([*messages, {"role": "assistant", "content": answer}]))
        if whole[: len(prompt)] != prompt:
            raise InputError(
                "the chat template writes the prompt otherwise once it is answered, so its tokens cannot be told from the answer's"
            )
        said = whole[len(prompt) :]
        end = self.tokenizer.eos_token_id
        said = said[: said.index(end) + 1] if end in said else said
        if not said:
            raise InputError(f"the answer {answer!r} has no tokens")
        if len(prompt) + len(said) > self.window:
            raise InputError(f"prompt and answer have {len(prompt) + len(said)} tokens, the model's window is {self.window}")
        control = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        pieces = [self.tokenizer.decode([token]) for token in said]
        return Reading(
            text, tuple(prompt), tuple(said), tuple(spans), tuple(t in control for t in prompt), tuple(text[a:b] for a, b in spans),
            tuple(pieces),
        )  # fmt: skip

    def log_probabilities(self, rows: torch.Tensor, answer: Sequence[int]) -> torch.Tensor:
        """Log-probability of each answer token after what stands before it, shape [rows, answer]; rows are [prompt + answer[:-1]]."""
        import torch

        logits = self.model(input_ids=rows, use_cache=False, logits_to_keep=len(answer)).logits.float()
        targets = torch.tensor(answer).expand(rows.shape[0], -1)
        return logits.log_softmax(-1).gather(2, targets[:, :, None])[:, :, 0]

    def _render(self, messages: Messages) -> str:
        ask = messages[-1]["role"] != "assistant"
        return str(self.tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=ask))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
