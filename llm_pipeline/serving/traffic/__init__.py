"""Releases and which of them answers: the desired state, rollouts, and the test that judges them."""
