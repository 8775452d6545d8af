"""What the served model does: logged interactions, drift of the questions, quality of the answers, usage and cost."""
