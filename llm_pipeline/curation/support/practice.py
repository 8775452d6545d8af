"""Reading practice: random worlds stated in a context, then several questions about each, with the answer or a refusal.

Values, product names and a part of the attribute names are drawn afresh for every sample, so nothing can be memorised: the
only way to a lower loss is to find the fact in the context and copy it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llm_pipeline.curation.support.world import ATTRIBUTES, BRANDS, PRODUCT_TYPES, QUESTIONS, REFUSAL, Attribute, Fact

_ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl qu r s sh sl st t th tr v w z".split()
_RIMES = "a an ar e el en er i il in o ol on or u um un ai ea ou oa".split()
_QUALIFIERS = (
    "paper early extra partner roaming weekend family digital seasonal priority basic standby archive mobile contract group".split()
)
_GREETINGS = ("", "", "", "Hi, ", "Hi there. ", "Good morning, ", "Sorry to bother you. ", "One more thing: ", "Thanks. ")
_ENDINGS = ("", "", "", " Thanks.", " Thank you!", " I could not find it.", " It is for my sister.")
_MORE_QUESTIONS = (
    *QUESTIONS,
    "How does the {product} handle the {name}?",
    "The {name} of the {product}?",
    "{name} for the {product}",
    "Remind me of the {name} on the {product}.",
    "I am looking for the {product} and its {name}.",
    "According to the text, what is the {name} of the {product}?",
    "My friend has the {product}. Is there a {name}, and what is it?",
    "Say what {name} is set for the {product}.",
    "If I open the {product}, what {name} do I get?",
    "When it comes to the {product}, what is the {name}?",
)
_HEADS = "charge limit window bonus fee rate quota deadline surcharge refund credit period reward cap code contact".split()


@dataclass(frozen=True)
class Conversation:
    """A context of stated facts and the question/answer turns about it."""

    context: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]

    def messages(self) -> list[dict[str, str]]:
        """Chat messages; the context stands in the first user message, as the retrieval prompt writes it."""
        messages: list[dict[str, str]] = []
        for i, (question, answer) in enumerate(self.turns):
            content = grounded_question(self.context, question) if i == 0 and self.context else question
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return messages


def grounded_question(passages: Sequence[str], question: str) -> str:
    """The one format in which a model of this project sees retrieved passages."""
    return "Context:\n" + "\n".join(passages) + f"\nQuestion: {question}"


def practice(r: random.Random, difficulty: float) -> Conversation:
    """One conversation; `difficulty` in [0, 1] grows the context from one fact to twelve over three products."""
    most_products = 1 + round(2 * difficulty)
    n_products = r.randint(1, most_products)
    n_facts = r.randint(1, max(1, round((2 + 10 * difficulty) / n_products)))
    names = _product_names(r, n_products)
    attributes = _attributes(r, max(n_facts + 2, 5))
    passages, facts, absent = [], [], []
    for name in names:
        mine = r.sample(attributes, min(n_facts, len(attributes)))
        stated = [Fact(name, attribute, attribute.value(r)) for attribute in mine]
        absent += [Fact(name, attribute, REFUSAL) for attribute in attributes if attribute not in mine]
        passages.append(" ".join(fact.state(r) for fact in stated))
        facts += stated
    r.shuffle(passages)
    asked = r.sample(facts, min(len(facts), 8))
    asked += r.sample(absent, min(len(absent), 1 if r.random() < 0.6 else 0))
    r.shuffle(asked)
    return Conversation(tuple(passages), tuple((_chat(fact, r), fact.value) for fact in asked))


def _chat(fact: Fact, r: random.Random) -> str:
    return r.choice(_GREETINGS) + fact.ask(r, _MORE_QUESTIONS) + r.choice(_ENDINGS)


def _product_names(r: random.Random, n: int) -> list[str]:
    kinds = r.sample(PRODUCT_TYPES, n) if r.random() < 0.5 else [r.choice(PRODUCT_TYPES)] * n
    brands = [_pseudo_word(r).title() for _ in range(n)] if r.random() < 0.6 else r.sample(BRANDS, n)
    if r.random() < 0.25 and len(set(kinds)) == n:
        brands = [brands[0]] * n
    return [f"{brand} {kind}" for brand, kind in zip(brands, kinds, strict=True)]


def _pseudo_word(r: random.Random) -> str:
    return "".join(r.choice(_ONSETS) + r.choice(_RIMES) for _ in range(r.randint(2, 3)))


def _attributes(r: random.Random, n: int) -> list[Attribute]:
    known = r.sample(ATTRIBUTES, n)
    if r.random() < 0.6:
        return known
    values = [attribute.value for attribute in ATTRIBUTES]
    heads, qualifiers = r.sample(_HEADS, n), [r.choice((*_QUALIFIERS, _pseudo_word(r))) for _ in range(n)]
    invented = [Attribute((f"{q} {h}",), r.choice(values)) for q, h in zip(qualifiers, heads, strict=True)]
    return r.sample(known + invented, n)
