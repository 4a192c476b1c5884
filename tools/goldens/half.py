"""Measures PyTorch's own error in half precision and bfloat16 on the cases of fixtures/hf: how far each output is from f64.

    python tools/goldens/half.py        # writes fixtures/half/hf.json

This is what an implementation in these precisions is held to: being no further than a few times as far. The model is run by
transformers on the CPU, weights and activations in the precision and in f64, from the model directories and inputs that are there.
Where PyTorch's output is not finite (a loss that overflows), there is no number.
"""

import json

import torch
import transformers
from safetensors.torch import load_file

from common import FIXTURES, max_difference
from hf import HEADS, forward
from hf_cases import all_cases

PRECISIONS = {"f16": torch.float16, "bf16": torch.bfloat16}
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels", "start_positions", "end_positions")


def to(value, dtype):
    return value.to(dtype) if value.is_floating_point() else value


def outputs(case, golden, dtype):
    """Everything the model of a case returns on the inputs of a golden, in a precision."""
    model = HEADS[case.head].from_pretrained(FIXTURES / "hf" / case.name, dtype=dtype, attn_implementation="eager").eval()
    inputs = {k: golden[k] for k in INPUTS if k in golden}
    return forward(model, {k: v if k == "attention_mask" else to(v, dtype) for k, v in inputs.items()}, False)[0]


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    root = FIXTURES / "hf"
    found = {}
    for case in all_cases():
        for name in case.runs:
            golden = load_file(root / case.name / f"{name}.f64.safetensors")
            # In f64 anew: of long inputs the golden leaves the probabilities out.
            exact = outputs(case, golden, torch.float64)
            errors = found[f"{case.name}/{name}"] = {}
            for precision, dtype in PRECISIONS.items():
                apart = {k: max_difference(v.double(), exact[k]) for k, v in outputs(case, golden, dtype).items()}
                errors[precision] = {k: v for k, v in apart.items() if v is not None and v < 1e3}
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    header = {"command": "python tools/goldens/half.py", "versions": versions, "cases": found}
    (FIXTURES / "half" / "hf.json").write_text(json.dumps(header, separators=(",", ":")) + "\n")
    print(f"{len(found)} cases")


if __name__ == "__main__":
    main()
