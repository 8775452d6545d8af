"""Simulated customers: the same each time, calm before the shift, about something new from the shift on."""

from __future__ import annotations

import re

import pytest

from llm_pipeline.curation.support.bank import SupportConfig, bank
from llm_pipeline.curation.support.customers import customer_messages
from llm_pipeline.curation.support.world import REFUSAL

CONFIG = SupportConfig()
_NEWS = re.compile(r"wallet|QR|instant|Instant Pay|contactless", re.I)


def _share_of_news(day: str) -> float:
    new = set(bank(CONFIG, CONFIG.shift_date).products) - set(bank(CONFIG, CONFIG.first_day).products)
    messages = customer_messages(CONFIG, day, 400)
    return sum(bool(_NEWS.search(m.question)) or any(product in m.question for product in new) for m in messages) / len(messages)


def test_a_day_of_customers_is_the_same_again_and_days_differ() -> None:
    day, other = CONFIG.all_days[:2]
    assert customer_messages(CONFIG, day, 50) == customer_messages(CONFIG, day, 50)
    assert customer_messages(CONFIG, day, 50) != customer_messages(CONFIG, other, 50)
    assert len(customer_messages(CONFIG, day, 50)) == 50


@pytest.mark.parametrize("day", CONFIG.all_days)
def test_news_arrive_with_the_shift(day: str) -> None:
    share = _share_of_news(day)
    assert 0.25 <= share <= 0.55 if day >= CONFIG.shift_date else share == 0


def test_answers_are_those_of_the_day() -> None:
    for day in (CONFIG.all_days[6], CONFIG.shift_date):
        values = {product: {fact.value for fact in bank(CONFIG, day).about(product)} for product in bank(CONFIG, day).products}
        for message in customer_messages(CONFIG, day, 300):
            product = next((p for p in values if p in message.question), None)
            assert message.answer in (values[product] if product else {REFUSAL})


def test_customers_phrase_their_questions_differently() -> None:
    questions = [message.question for message in customer_messages(CONFIG, CONFIG.first_day, 400)]
    assert len(set(questions)) > 300
