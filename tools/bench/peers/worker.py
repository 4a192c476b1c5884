"""Answers the requests of compare.py with PyTorch or ONNX Runtime: one JSON object a line in, one a line out.

    python worker.py torch|onnxruntime THREADS

{"do": "load", "model": DIR, "onnx": DIR}     loads the model
{"do": "inputs", "file": FILE}                takes input_ids and, if there, attention_mask
{"do": "run", "how": "eager" or "compiled"}   one forward pass; the seconds are its own alone
{"do": "save", "file": FILE}                  writes last_hidden_state of the last pass

Each answer is {"seconds": …} or {"error": …}. `how` matters to PyTorch alone.
"""

import json
import sys
import time


class Torch:
    def __init__(self, threads):
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def load(self, request):
        model = self.transformers.DebertaV2Model.from_pretrained(request["model"], dtype=self.torch.float32).eval()
        self.run_as = {"eager": model, "compiled": None}

    def inputs(self, request):
        from safetensors.torch import load_file

        self.given = load_file(request["file"])

    def run(self, request):
        how = request.get("how", "eager")
        if self.run_as[how] is None:
            self.run_as[how] = self.torch.compile(self.run_as["eager"])
        with self.torch.inference_mode():
            start = time.perf_counter()
            self.output = self.run_as[how](**self.given).last_hidden_state
            return time.perf_counter() - start

    def save(self, request):
        from safetensors.torch import save_file

        save_file({"last_hidden_state": self.output.contiguous()}, request["file"])


class OnnxRuntime:
    def __init__(self, threads):
        import onnxruntime

        self.onnxruntime, self.threads = onnxruntime, threads

    def load(self, request):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = self.onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = f"{request['onnx']}/model.onnx"
        self.session = self.onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def inputs(self, request):
        import numpy
        from safetensors.numpy import load_file

        given = load_file(request["file"])
        given.setdefault("attention_mask", numpy.ones_like(given["input_ids"]))
        self.given = given

    def run(self, request):
        start = time.perf_counter()
        (self.output,) = self.session.run(["last_hidden_state"], self.given)
        return time.perf_counter() - start

    def save(self, request):
        from safetensors.numpy import save_file

        save_file({"last_hidden_state": self.output}, request["file"])


def main():
    # Answers have the channel that was standard output; what libraries print there goes to standard error.
    answers = sys.stdout
    sys.stdout = sys.stderr
    worker = {"torch": Torch, "onnxruntime": OnnxRuntime}[sys.argv[1]](int(sys.argv[2]))
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        try:
            seconds = getattr(worker, request["do"])(request)
            answer = {"seconds": time.perf_counter() - start if seconds is None else seconds}
        except Exception as error:  # any failure of a peer is a result, and is reported as one
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
