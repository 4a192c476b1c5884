"""Records what a PyTorch model computes: the outputs, every module's output, and the finer steps of the attention.

The recorder is the one that users copy, `tools/dump_activations.py`; here a step that it cannot find is an error.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dump_activations import DIVISIONS, AttentionSteps, copied  # noqa: E402, F401
from dump_activations import recording as lenient_recording  # noqa: E402


def recording(model, config, attention_class, steps_class=AttentionSteps, skip=()):
    """Fills the yielded dict with every intermediate of one forward pass of `model`, except the paths in `skip`."""
    return lenient_recording(model, config, lambda m: isinstance(m, attention_class), steps_class, skip, strict=True)
