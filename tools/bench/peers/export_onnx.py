"""Exports the encoder of a model directory to ONNX, as transformers computes it, with free batch and length.

    python export_onnx.py MODEL_DIR OUT_DIR [--exporter dynamo|torchscript]

Writes OUT_DIR/model.onnx and, beside it, the weights. Inputs `input_ids` and `attention_mask` [B, L]; output
`last_hidden_state` [B, L, E]. Without --exporter, torch's own default is used.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import DebertaV2Model


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def export(model_dir: Path, out_dir: Path, exporter: str) -> None:
    model = DebertaV2Model.from_pretrained(model_dir, dtype=torch.float32).eval()
    ids = torch.randint(5, model.config.vocab_size, (2, 40))
    inputs = (ids, torch.ones_like(ids))
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out_dir.parent, prefix=out_dir.name))
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["last_hidden_state"]}
    with torch.no_grad():
        if exporter == "dynamo":
            axes = {0: torch.export.Dim("batch", min=1, max=1024), 1: torch.export.Dim("length", min=1, max=65536)}
            shapes = {"input_ids": axes, "attention_mask": axes}
            torch.onnx.export(
                Encoder(model), inputs, work / "model.onnx", dynamo=True, dynamic_shapes=shapes, external_data=True, **names
            )
        else:
            axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask", "last_hidden_state")}
            torch.onnx.export(Encoder(model), inputs, work / "model.onnx", dynamo=False, dynamic_axes=axes, opset_version=17, **names)
    shutil.rmtree(out_dir, ignore_errors=True)
    work.rename(out_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    arguments = parser.parse_args()
    export(arguments.model_dir, arguments.out_dir, arguments.exporter)
