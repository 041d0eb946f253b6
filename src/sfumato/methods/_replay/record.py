"""Repeat a random computation without repeating what does not depend on random numbers.

One run is recorded operation by operation, at the level of operators and storages, below modules, views and in-place
calls. An operation *differs* between runs if it draws random numbers or reads a storage that differs. Only those
operations are kept, with the tensors that they read from the rest, and only those are replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.methods._replay.replay import Args, KwArgs, Place, Recording, Step, leaves_of, mapped, pruned

_FLOW = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ESCAPES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}


class NotRecordable(Exception):  # noqa: N818  (it is not an error: the caller runs the whole network instead)
    """Why a computation cannot be recorded."""


class _Overwritten(Exception):  # noqa: N818
    """The result of this operation is overwritten later: record again, and keep a copy of it."""


class _Recorder(TorchDispatchMode):
    """Runs every operation, and keeps the ones that differ."""

    def __init__(self, copied: set[int]) -> None:
        super().__init__()
        self.copied = copied
        self.operations = 0
        self.global_random = False
        self.steps: list[Step] = []
        # Weak references as keys: they keep no memory alive, but no later storage gets the address of an earlier one.
        self.origin: dict[StorageWeakRef, int] = {}
        self.slots: dict[StorageWeakRef, int] = {}
        self.read_later: set[StorageWeakRef] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch would wrap the method below and import its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: object, types: object, args: Args = (), kwargs: KwArgs | None = None) -> object:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            raise NotRecordable(f"it calls {func}, of which torch says neither what it reads nor what it writes")
        index, self.operations = self.operations, self.operations + 1
        read = {_storage(leaf) for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)}
        draws = _draws(func, args, kwargs)
        self.global_random |= draws and _named(func, args, kwargs).get("generator") is None
        differs = draws or any(storage in self.slots for storage in read)
        if differs and _decides_flow(func, args):
            raise NotRecordable(f"what it does next depends on random numbers, through {func}")
        written = _written(func, args, kwargs)
        self._protect(written, differs)
        noted: tuple[Args, KwArgs] = mapped(self.place, (args, kwargs)) if differs else ((), {})
        result = func(*args, **kwargs)
        made = enumerate(leaves_of(result))
        fresh = {i: leaf for i, leaf in made if isinstance(leaf, Tensor) and _storage(leaf) not in read}
        self.origin |= {_storage(leaf): index for leaf in fresh.values()}
        if index in self.copied and not differs:
            for leaf in fresh.values():
                self._note((torch.clone, (leaf.clone(),), {}), {0: leaf})
        elif differs and (fresh or written):  # otherwise it is a view, which its place describes
            self._note((func, *noted), fresh, written, draws)
        return result

    def _protect(self, written: dict[StorageWeakRef, Tensor], differs: bool) -> None:
        """Keep what is about to be overwritten, because the replay needs it again."""
        for storage, tensor in written.items():
            if storage in self.slots or not (differs or storage in self.read_later):
                continue
            if storage not in self.origin:
                raise NotRecordable("it overwrites its own parameters or buffers")
            if storage in self.read_later:  # a step that was kept reads it, as it was when it was made
                raise _Overwritten(self.origin[storage])
            whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
            self._note((torch.clone, (whole.clone(),), {}), {0: whole})

    def _note(
        self,
        call: tuple[Callable[..., object], Args, KwArgs],
        fresh: Mapping[int, Tensor],
        written: Iterable[StorageWeakRef] = (),
        draws: bool = False,
    ) -> None:
        makes = tuple((i, len(self.slots) + k) for k, i in enumerate(fresh))
        self.slots |= {_storage(fresh[i]): slot for i, slot in makes}
        changes = frozenset(slot for _, slot in makes) | {self.slots[storage] for storage in written}
        self.steps.append(Step(*call, makes, changes, draws))

    def place(self, leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        slot = self.slots.get(_storage(leaf))
        if slot is None:
            self.read_later.add(_storage(leaf))
            return leaf
        return Place(slot, leaf.shape, leaf.stride(), int(leaf.storage_offset()), leaf.dtype)


class _NoEscapes(TorchFunctionMode):
    """The recorder sees only operators, so values must not leave torch."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Args = (), kwargs: KwArgs | None = None
    ) -> object:
        if func in _ESCAPES:
            raise NotRecordable(f"it passes values out of torch, through {func.__name__}")
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> StorageWeakRef:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise NotRecordable("it uses a tensor that is not plain memory: sparse, quantized or lazily conjugated")
    return StorageWeakRef(tensor.untyped_storage())


def _draws(func: OpOverload, args: Args, kwargs: KwArgs) -> bool:
    """Whether ``func`` draws random numbers. Fused attention is tagged so, but draws only with an active dropout."""
    return torch.Tag.nondeterministic_seeded in func.tags and _named(func, args, kwargs).get("dropout_p") != 0


def _decides_flow(func: OpOverload, args: Args) -> bool:
    """Whether shapes or the flow of the Python code may depend on the values that ``func`` reads."""
    if func is torch.ops.aten.index.Tensor:  # it is tagged, but only masks make its shape depend on values
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return not _FLOW.isdisjoint(func.tags)


def _written(func: OpOverload, args: Args, kwargs: KwArgs) -> dict[StorageWeakRef, Tensor]:
    if not func._schema.is_mutable:
        return {}
    named = _named(func, args, kwargs)
    written = [named[a.name] for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return {_storage(leaf): leaf for leaf in leaves_of(written) if isinstance(leaf, Tensor)}


def _named(func: OpOverload, args: Args, kwargs: KwArgs) -> KwArgs:
    arguments = func._schema.arguments
    return {a.name: a.default_value for a in arguments} | dict(zip((a.name for a in arguments), args)) | kwargs


def record(run: Callable[[], Tensor]) -> Recording:
    """Run once, and keep what must run again for another draw.

    Args:
        run: A computation whose random numbers all come from torch's operators. It may be started several times.

    Raises:
        NotRecordable: If its flow or its state depends on random numbers.
    """
    copied: set[int] = set()
    while True:
        try:
            with torch.no_grad(), _NoEscapes(), _Recorder(copied) as recorder:
                output = run()
                place = recorder.place(output)
            result = place if isinstance(place, Place) else output.clone()
            steps = pruned(recorder.steps, result)
            return Recording(output, recorder.operations, steps, result, recorder.global_random)
        except _Overwritten as overwritten:
            (operation,) = overwritten.args
            if operation in copied:
                raise NotRecordable("it does not do the same twice") from None
            copied.add(operation)
