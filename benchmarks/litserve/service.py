"""CLIP behind LitServe, as its documentation serves a model of uploaded pictures.

    python -m benchmarks.litserve.service --port 8000 --workers 2

Photos come as a form's file, `decode_request` opens and transforms one (open_clip's transform),
`predict` embeds a batch. `--encoder null` returns one constant vector.
"""

# No postponed annotations: LitServe reads that of decode_request as it is.

import argparse
from typing import Any

import litserve as ls
import open_clip
import torch
from fastapi import Request
from PIL import Image

MODEL = "ViT-B-32"
SIZE, DIMENSION = 224, 512


class ClipAPI(ls.LitAPI):
    def __init__(self, encoder: str, threads: int, max_batch_size: int) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=0.01)
        self._encoder, self._threads = encoder, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._transform: Any = open_clip.image_transform(SIZE, is_train=False)
        self._model: Any = None
        if self._encoder == "torch":
            self._model = open_clip.create_model(MODEL, pretrained=None, device=device).eval()

    def decode_request(self, request: Request) -> Any:
        return self._transform(Image.open(request["content"].file))

    def batch(self, inputs: list[Any]) -> Any:
        return torch.stack(inputs)

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._model is None:
            return torch.full((len(pixels), DIMENSION), DIMENSION**-0.5)
        with torch.inference_mode():
            rows: torch.Tensor = self._model.encode_image(pixels, normalize=True)
        return rows

    def unbatch(self, output: torch.Tensor) -> list[list[float]]:
        rows: list[list[float]] = output.tolist()
        return rows

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"embedding": output}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litserve.service", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch's, in each worker")
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--encoder", choices=["torch", "null"], default="torch")
    options = parser.parse_args()
    api = ClipAPI(options.encoder, options.threads, options.max_batch_size)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
