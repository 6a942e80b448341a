"""The steps of full batches as CUDA graphs (`cuda_graphs=true`): one launch instead of hundreds.

A small model's kernels are shorter than it takes the host to launch them, and the GPU waits. What
is recorded is the model's forward pass, in training its backward pass as well; batches of another
size, as the last of a pass may be, and evaluation after training run as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]

_REHEARSALS = 3
"""Runs before a recording, in which libraries choose kernels and take memory; as torch's own."""


def record_training(model: nn.Module, images: Tensor) -> None:
    """Replay the model in training for inputs like `images`, weights and running statistics aside.

    `images` is a full batch on the GPU. Call it in the autocast that the model is to run in,
    without its cache: a weight that was rounded before the recording would stay as it was.
    """
    as_it_is: Forward = model.forward
    model.train()
    torch.cuda.make_graphed_callables(model, (images,))  # puts a forward of its own into the model
    replayed: Forward = model.forward
    shape = images.shape

    def forward(given: Tensor) -> Tensor:
        if model.training and torch.is_grad_enabled() and given.shape == shape:
            return replayed(given)
        return as_it_is(given)

    model.forward = forward


@torch.inference_mode()
def record_inference(model: nn.Module, images: Tensor) -> None:
    """Replay the model in evaluation for inputs like `images`, as `record_training`.

    What it returns is overwritten by the next batch.
    """
    as_it_is: Forward = model.forward
    model.eval()
    placed = images.clone()
    aside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(aside):
        for _ in range(_REHEARSALS):
            as_it_is(placed)
    torch.cuda.current_stream(images.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = as_it_is(placed)

    def forward(given: Tensor) -> Tensor:
        if model.training or torch.is_grad_enabled() or given.shape != placed.shape:
            return as_it_is(given)
        placed.copy_(given)
        graph.replay()
        return scores

    model.forward = forward
