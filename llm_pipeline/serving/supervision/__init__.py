"""The endpoint's processes: kept running, drained and ended; and the client that asks for it."""
