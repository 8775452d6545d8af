"""What libraries say on import and while they load a model, kept off the terminal: it is nothing that a user could act on."""

from __future__ import annotations

import logging
import os


def quiet() -> None:
    """Call it before a model is loaded: no bars, and no search for a GPU by DeepSpeed, which PEFT imports, where there is none."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for kernels that nothing here needs
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
