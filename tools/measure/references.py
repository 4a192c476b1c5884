"""The programs to measure against. Each writes a model directory and gives inputs and outputs for one draw."""

import torch
import transformers

import hf
import microsoft
import microsoft_code
import microsoft_sample
import sample
from common import PRECISIONS, to_precision
from hf_cases import Case, Run
from microsoft_cases import Case as MicrosoftCase
from microsoft_cases import Run as MicrosoftRun
from microsoft_cases import shape_of


class HuggingFace:
    """transformers as installed: 5.x is profile hf-5, 4.46 and before hf-4."""

    complete = True  # whether it returns all that `deberta-ref run` writes

    def __init__(self):
        self.profile = "hf-5" if transformers.__version__ >= "5" else "hf-4"

    def draw(self, seed, head):
        what, build = sample.draw(seed, head)
        if self.profile == "hf-4":
            what["config"]["legacy"] = True  # 4.46 has the one head, and not every activation
            if what["config"]["hidden_act"] == "hardswish":
                what["config"]["hidden_act"] = "gelu"
        return what, build

    def outputs(self, drawn, folder):
        """Writes the directory; returns ({precision: inputs}, {precision: outputs})."""
        what, build = drawn
        case = Case("draw", what["head"], what["config"], "", {}, what["weights"], what["dtype"], std=what["std"])
        hf.write_model(case, folder, what["seed"])
        run = Run(build(hf.read_model(case, folder).config), "", label_dtype=what["label_dtype"])
        inputs, outputs = {}, {}
        for precision, dtype in PRECISIONS.items():
            inputs[precision] = hf.inputs_in(run, dtype)
            named = hf.forward(hf.read_model(case, folder).to(dtype), inputs[precision], False)[0]
            last = f"hidden_states.{what['config']['num_hidden_layers']}"
            outputs[precision] = {"last_hidden_state": named[last], **named}  # which we write for every head
        return inputs, outputs


class Microsoft:
    """Microsoft's newest code, in `folder`."""

    profile = "microsoft"
    complete = False
    # What the goldens hold besides the outputs of a run.
    BESIDES = ("embeddings", "position_embeddings", "emd_outputs", "replaced")

    def __init__(self, folder):
        self.library = microsoft_code.load(folder)

    def draw(self, seed, head):
        return microsoft_sample.draw(seed, head)

    def outputs(self, drawn, folder):
        what, build = drawn
        head = what["head"]
        owner = "enhanced-masked-lm" if head == "base" else head
        case = MicrosoftCase("draw", owner, what["config"], "", {}, what["num_labels"], what["weights"])
        microsoft.write_model(self.library, case, folder, what["seed"])
        run = MicrosoftRun(head, build(shape_of(what["config"])), "")
        inputs, outputs = {}, {}
        for precision, dtype in PRECISIONS.items():
            inputs[precision] = to_precision(run.inputs.tensors, dtype)
            named = microsoft.outputs(self.library, case, run, folder, "microsoft", dtype, False)[0]
            outputs[precision] = {k: v for k, v in named.items() if k.split(".")[0] not in self.BESIDES}
        return inputs, outputs
