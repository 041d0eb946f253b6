"""The passes of a network in training as CUDA graphs, each of which starts with one call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.contracts import Inputs
from sfumato.errors import ConfigError


class CudaGraph:
    """Records the forward and backward pass of a network at its first batch. Later batches replay the recording.

    A small network finishes an operation before Python has started the next one. A replay starts all of them at once.
    Batches of other shapes, passes in evaluation mode, and a second pass of a step are not replayed: a replay writes
    over what the first pass has kept for its gradient.

    Args:
        network: The network, on a GPU. Its weights must stay where they are in memory.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self._shapes, self._replayed = network, (), False

    def record(self, inputs: Inputs) -> None:
        """Record the passes for inputs of these shapes, unless this is done. Called at the beginning of each step.

        Weights, statistics of batch normalization and random numbers are afterwards what they were before.

        Raises:
            ConfigError: If the network does what no graph can hold, such as deciding by the value of a tensor.
        """
        self._replayed = False
        if self._shapes:
            return
        network, device = self.network, inputs[0].device
        plain, self._shapes = network.forward, tuple(each.shape for each in inputs)
        before = [(buffer, buffer.clone()) for buffer in network.buffers()]
        state = torch.cuda.get_rng_state(device)
        dtype, mixed = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        try:
            with torch.autocast("cuda", dtype, mixed, cache_enabled=False):  # casts of weights belong into the graph
                torch.cuda.make_graphed_callables(network, inputs, allow_unused_input=True)
        except Exception as error:
            raise ConfigError(
                f"the network {type(network).__name__} cannot be recorded as a CUDA graph ({type(error).__name__}): "
                "train it without cuda_graph"
            ) from error
        finally:
            for buffer, value in before:
                buffer.copy_(value)
            torch.cuda.set_rng_state(state, device)
        replayed = network.forward

        def forward(*given: Tensor) -> Tensor:
            if self._replayed or tuple(each.shape for each in given) != self._shapes:
                return plain(*given)
            self._replayed = True
            return replayed(*given)

        network.forward = forward

    def release(self) -> None:
        """Give the network its own forward pass back, and the memory of the recording."""
        self.network.__dict__.pop("forward", None)
        self._shapes = ()


def check_cuda_graph(accelerator: str, processes: int, method: str, own_loss: bool) -> None:
    """Check that passes can be recorded at all.

    Args:
        accelerator: Where the network is trained.
        processes: The number of processes that share the batches.
        method: The name of the method.
        own_loss: Whether the method has a loss of its own.

    Raises:
        ConfigError: If the device is no NVIDIA GPU, several processes share the batches, or the method has a loss of
            its own, which reads values that a replay does not compute anew.
    """
    if accelerator != "cuda":
        raise ConfigError(f"cuda_graph is True, but the device is {accelerator}: only cuda has CUDA graphs")
    if processes > 1:
        raise ConfigError(f"cuda_graph is True, but {processes} processes share the batches: use one device")
    if own_loss:
        raise ConfigError(
            f"cuda_graph is True, but the loss of the method {method} reads more than the output of the network: "
            "train it without cuda_graph"
        )
