from llm_pipeline.serving.routing import choose

USERS = [f"user-{i}" for i in range(4000)]


def test_arms_are_sticky_and_have_their_share() -> None:
    weights = {"new": 0.1, "old": 0.9}
    chosen = {user: choose(weights, user) for user in USERS}
    assert chosen == {user: choose(weights, user) for user in USERS}
    assert 0.08 < sum(arm == "new" for arm in chosen.values()) / len(USERS) < 0.12


def test_a_growing_canary_keeps_its_users() -> None:
    small = {user for user in USERS if choose({"new": 0.1, "old": 0.9}, user) == "new"}
    large = {user for user in USERS if choose({"new": 0.5, "old": 0.5}, user) == "new"}
    assert small < large


def test_another_release_is_tried_on_other_users() -> None:
    first = {user for user in USERS if choose({"a": 0.1, "old": 0.9}, user) == "a"}
    second = {user for user in USERS if choose({"b": 0.1, "old": 0.9}, user) == "b"}
    assert len(first & second) < len(first) / 2
