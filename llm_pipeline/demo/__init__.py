"""The guided run of the whole graph on the fictional bank (and on a user's own documents)."""
