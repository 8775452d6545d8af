"""Why a model answered what it did: tokens that moved the answer, where attention came from, which training rows lie near."""
