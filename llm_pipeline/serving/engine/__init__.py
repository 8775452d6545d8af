"""One model behind an OpenAI-compatible port: our worker, how each engine is started, and the contract all of them pass."""
