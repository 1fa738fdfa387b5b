"""A pretended GPU: tensors on `cuda:0` whose numbers the processor computes, with what a real one refuses.

Within `pretended_gpu()` torch says that there is a GPU. What is put on it is a tensor of its own class, which keeps its
numbers in a plain one and hands that to torch's kernels for the processor. So a whole drawing runs as on a GPU as far
as devices, precisions and the order of what is loaded and moved go, and is refused what a GPU refuses: tensors of both
devices in one operation (single numbers may come along), `numpy()`, noise from a generator of the processor, norms
whose weights have another precision. Bytes are counted as they are allocated and freed, as torch's allocator does.

What it cannot show: a GPU's kernels and their rounding, so the pictures are not those of a real one; what goes wrong
because a GPU works beside the processor (streams do nothing here); the true need of memory, as kernels want room beside
their tensors, and fragments lose some; what only a build with CUDA has: its compiler and attentions, its generators,
and memory that is truly pinned.

It reaches into torch where there is no public way, and was made for torch 2.13: see `_device_guard` and `_become`.
"""

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
import torch
from torch.utils._device import _device_constructors

HERE = torch.device("cuda", 0)
ALIGNED = 512
"""Bytes that torch's allocator for CUDA rounds up to: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize."""

STRICT = frozenset(
    {"addmm", "baddbmm", "bmm", "cat", "convolution", "embedding", "gather", "index_select", "mm", "scatter"}
)
"""Operations that take not even a single number from the other place."""
NORMS = frozenset({"native_batch_norm", "native_group_norm", "native_layer_norm"})
"""Operations whose weights must have the precision of what they norm; the processor takes wider ones too."""
ANYWHERE = frozenset({"_to_copy", "copy_"})
INDEXED = frozenset({"_index_put_impl_", "index", "index_put", "index_put_"})
ANSWERS = frozenset({"_local_scalar_dense", "equal"})
"""Operations that bring a number back."""

Named = Mapping[str, Any]


class Gpu:
    """Counts the bytes on it."""

    def __init__(self, total: int) -> None:
        self.total, self.allocated, self.peak = total, 0, 0
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()

    def block(self, tensor: torch.Tensor) -> "Block":
        """Return what stands for the memory of a tensor; views of it have the same."""
        storage = tensor.untyped_storage()
        found = self._blocks.get(storage._cdata)
        if found is None:
            found = self._blocks[storage._cdata] = Block(self, -(-storage.nbytes() // ALIGNED) * ALIGNED)
        return found

    def free(self) -> int:
        """Return how many bytes could still be had."""
        return self.total - self.allocated


class Block:
    """Some bytes of a GPU, for as long as it lives."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu, self._size = gpu, 0
        if size > gpu.free():
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                f"{gpu.total / 2**30:.2f} GiB of which {gpu.free() / 2**20:.2f} MiB is free."
            )
        self._size = size
        gpu.allocated += size
        gpu.peak = max(gpu.peak, gpu.allocated)

    def __del__(self) -> None:
        """Give them back."""
        self._gpu.allocated -= self._size


class OnGpu(torch.Tensor):
    """A tensor on it."""

    gpu: Gpu
    _pretended: tuple[torch.Tensor, Block]
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Self:  # noqa: ANN001  # ruff takes it for an argument
        """Take the numbers."""
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=HERE,
        )
        made._pretended = inner, cls.gpu.block(inner)
        return cast("Self", made)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # torch's stub lacks func
        """Do an operation of torch's in the processor's memory."""
        return _dispatched(func, args, kwargs or {})

    def __getitem__(self, index: Any) -> Any:
        """Take a part."""
        return super().__getitem__(_without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Change a part."""
        super().__setitem__(_without_lists(index), value)

    def numpy(self, **_: Any) -> Any:
        """Refuse: torch's words."""
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse too."""
        return self.numpy()

    def tolist(self) -> Any:
        """Bring all numbers back."""
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        """Return an address that is its own."""
        return int(_inner(self).data_ptr())

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch's stub
        """Say where it is."""
        return f"{_inner(self)!r} on {HERE}"


def _inner(value: Any) -> Any:
    return value._pretended[0] if isinstance(value, OnGpu) else value


def _without_lists(index: Any) -> Any:
    """Make tensors of lists; torch makes them on the device itself, where it has one."""
    if isinstance(index, tuple):
        return tuple(_without_lists(each) for each in index)
    return torch.tensor(index, dtype=None if index else torch.long) if isinstance(index, list) else index


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Change all in lists and tuples, which is where operations take and give their tensors."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, each) for each in value])
    return change(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


@functools.cache
def _known(func: Any) -> tuple[str, Sequence[tuple[int, str]]]:
    """Return the name of an operation, and which of its arguments it changes."""
    changed = [
        (place, each.name)
        for place, each in enumerate(func._schema.arguments)
        if each.alias_info is not None and each.alias_info.is_write
    ]
    return str(func._schema.name).removeprefix("aten::"), changed


def _dispatched(func: Any, args: Sequence[Any], kwargs: Named) -> Any:
    name, _ = _known(func)
    _refuse(func, args, kwargs)
    if name == "record_stream":
        return None
    leaves = torch.device(kwargs.get("device") or HERE).type != "cuda"
    kept = {each: value for each, value in kwargs.items() if each not in {"pin_memory", "non_blocking"}}
    if not leaves and "device" in kept:
        kept["device"] = torch.device("cpu")
    known = {id(_inner(each)): each for each in _tensors([*args, *kept.values()])}
    found = _reckoned(func, _mapped(_inner, args), {each: _mapped(_inner, value) for each, value in kept.items()})

    def outside(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else value if leaves else OnGpu(value)

    return found if name in ANSWERS else _mapped(outside, found)


def _refuse(func: Any, args: Sequence[Any], kwargs: Named) -> None:
    """Raise what CUDA does."""
    name, changed = _known(func)
    if name in ANYWHERE:
        return
    generator = kwargs.get("generator")
    if generator is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device}'")
    given = list(args)
    if name in INDEXED and isinstance(given[0], OnGpu):
        given[1] = ()  # places may lie in the computer's memory
    tensors = list(_tensors([*given, *kwargs.values()]))
    elsewhere = [each for each in tensors if not isinstance(each, OnGpu) and (each.ndim or name in STRICT)]
    for place, named in changed:
        target = given[place] if place < len(given) else kwargs.get(named)
        elsewhere += [each for each in _tensors(target) if not isinstance(each, OnGpu)]
    if elsewhere:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
            f"{elsewhere[0].device}! (in {func})"
        )
    if name in NORMS and len({each.dtype for each in tensors if each.is_floating_point()}) > 1:
        raise RuntimeError(f"expected scalar types to be the same but found {[each.dtype for each in tensors]}")


def _reckoned(func: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation; in full precision what the processor cannot do in half of it."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as exc:
        if "not implemented for 'Half'" not in str(exc) and "not implemented for 'BFloat16'" not in str(exc):
            raise
        half = torch.float16 if "'Half'" in str(exc) else torch.bfloat16
    wide, back = (functools.partial(_cast, *each) for each in ((half, torch.float32), (torch.float32, half)))
    named = {each: _mapped(wide, value) for each, value in kwargs.items()}
    return _mapped(back, func(*_mapped(wide, args), **named))


def _cast(of: torch.dtype, to: torch.dtype, value: Any) -> Any:
    return value.to(to) if isinstance(value, torch.Tensor) and value.dtype == of else value


@contextmanager
def pretended_gpu(total: int = 8 * 10**9) -> Iterator[Gpu]:
    """Have torch see a GPU with so many bytes, for the length of the block. One at a time in a process."""
    gpu = Gpu(total)
    with _device_guard(), _factories(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnGpu, "gpu", gpu, raising=False)
        _patch_tensors(patch)
        for name, answer in _answers(gpu).items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
        patch.setattr(torch.version, "cuda", "13.0")
        _forget_what_is_available()
        yield gpu
    _forget_what_is_available()


REGISTER = "_ZN3c104impl19registerDeviceGuardENS_10DeviceTypeEPKNS0_24DeviceGuardImplInterfaceE"
"""c10::impl::registerDeviceGuard(c10::DeviceType, c10::impl::DeviceGuardImplInterface const*)."""
CUDA = 1
"""c10::DeviceType::CUDA."""
MOST_FUNCTIONS = 100


@contextmanager
def _device_guard() -> Iterator[None]:
    """Give torch what switches to a device, for the GPU: the one that does nothing, which torch has itself.

    Torch puts that in the place of one that knows of no devices, so here is one all of whose functions answer 0.
    """
    register = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))[REGISTER]
    register.argtypes, register.restype = (ctypes.c_int8, ctypes.c_void_p), None
    answer = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 0)
    functions = (ctypes.c_void_p * MOST_FUNCTIONS)(*[ctypes.cast(answer, ctypes.c_void_p).value] * MOST_FUNCTIONS)
    guard = ctypes.c_void_p(ctypes.addressof(functions))
    register(CUDA, ctypes.addressof(guard))
    torch._C._ensureCUDADeviceGuardSet()
    try:
        yield
    finally:
        register(CUDA, None)


@contextmanager
def _factories() -> Iterator[None]:
    """Have all that makes tensors from none make them on the GPU too, in whatever thread."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's
    for schema in torch._C._jit_get_all_schemas():
        kinds = {each.name: str(each.type) for each in schema.arguments}
        if not schema.name.startswith("aten::") or "device" not in kinds or any("Tensor" in k for k in kinds.values()):
            continue
        name = schema.name.removeprefix("aten::")
        func = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        library.impl(name + (f".{schema.overload_name}" if schema.overload_name else ""), _maker(func), "CUDA")
    try:
        yield
    finally:
        library._destroy()


def _maker(func: Any) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        _refuse(func, args, kwargs)
        kept = {each: value for each, value in kwargs.items() if each != "pin_memory"}
        return OnGpu(_reckoned(func, args, {**kept, "device": torch.device("cpu")}))

    return make


def _patch_tensors(patch: pytest.MonkeyPatch) -> None:
    to: Any = torch.Tensor.to
    data: Any = torch.Tensor.data

    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        return to(self, *map(_numbered, args), **{name: _numbered(value) for name, value in kwargs.items()})

    def pin(self: Any, *_: Any) -> Any:
        if isinstance(self, OnGpu):
            raise RuntimeError("only dense CPU tensors can be pinned")  # noqa: TRY004  # as torch does
        if is_pinned(self):
            return self
        found = self.clone()
        found._is_pinned = True
        return found

    def is_pinned(self: Any, *_: Any) -> bool:
        return hasattr(self, "_is_pinned")

    def set_data(self: Any, value: Any) -> None:
        if isinstance(self, OnGpu) or isinstance(value, OnGpu):
            _become(self, value)
        else:
            data.__set__(self, value)

    patch.setattr(torch.Tensor, "to", moved)
    patch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self.to(HERE))
    patch.setattr(torch.Tensor, "pin_memory", pin)
    patch.setattr(torch.Tensor, "is_pinned", is_pinned)
    patch.setattr(torch.Tensor, "data", property(data.__get__, set_data))
    patch.setattr(torch, "_has_compatible_shallow_copy_type", lambda *_: True)  # as with a real one
    _device_constructors()  # torch keeps them from the first time on, and those below are not what it knows
    for name in ("tensor", "as_tensor", "asarray"):
        patch.setattr(torch, name, _made_here_first(getattr(torch, name)))


def _numbered(value: Any) -> Any:
    return HERE if isinstance(value, str | torch.device) and str(value) == "cuda" else value


def _made_here_first(make: Callable[..., Any]) -> Callable[..., Any]:
    def number(value: Any) -> Any:
        return value.item() if isinstance(value, OnGpu) and not value.ndim else value

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        args = tuple(_mapped(number, each) if isinstance(each, list | tuple) else each for each in args)
        if device is not None and torch.device(device).type == "cuda":
            return make(*args, **kwargs).to(device)
        return make(*args, **({} if device is None else {"device": device}), **kwargs)

    return made


def _become(tensor: Any, other: torch.Tensor) -> None:
    """Do what assigning to `data` does between places: the same object, with the numbers of another one."""
    fresh: Any = other.detach()
    if isinstance(tensor, torch.nn.Parameter):
        fresh = torch.nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    own = {name: value for name, value in tensor.__dict__.items() if name not in {"_pretended", "_is_param"}}
    tensor.__class__, fresh.__class__ = fresh.__class__, tensor.__class__
    given = dict(fresh.__dict__)
    for each, attributes in ((fresh, dict(tensor.__dict__)), (tensor, given | own)):
        each.__dict__.clear()
        each.__dict__.update(attributes)
    torch._C._swap_tensor_impl(tensor, fresh)


class Stream:
    """A queue of work; here all is done at once."""

    device = HERE

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what torch does."""

    def synchronize(self) -> None:
        """Wait."""

    def wait_stream(self, _: Any) -> None:
        """Wait."""


def _answers(gpu: Gpu) -> dict[str, Any]:
    """Return what stands in for `torch.cuda`, by name."""

    def reset(*_: Any) -> None:
        gpu.peak = gpu.allocated

    def always(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    properties = SimpleNamespace(name="a pretended GPU", total_memory=gpu.total, major=9, minor=0)
    return {
        "_lazy_init": always(None),
        "is_available": always(value=True),
        "is_initialized": always(value=True),
        "is_bf16_supported": always(value=True),
        "device_count": always(1),
        "current_device": always(0),
        "get_device_name": always(properties.name),
        "get_device_capability": always((properties.major, properties.minor)),
        "get_device_properties": always(properties),
        "mem_get_info": lambda *_: (gpu.free(), gpu.total),
        "memory_allocated": lambda *_: gpu.allocated,
        "memory_reserved": lambda *_: gpu.allocated,
        "max_memory_allocated": lambda *_: gpu.peak,
        "reset_peak_memory_stats": reset,
        "empty_cache": always(None),
        "ipc_collect": always(None),
        "synchronize": always(None),
        "Stream": Stream,
        "current_stream": lambda *_: Stream(),
        "stream": lambda _: nullcontext(),
    }


def _forget_what_is_available() -> None:
    """Have libraries ask anew whether there is a GPU."""
    from diffusers.utils.torch_utils import TorchDeviceBackend  # noqa: PLC0415  # seconds of import

    TorchDeviceBackend._detect_device_type.cache_clear()
    for name, module in list(sys.modules.items()):
        if name.startswith(("transformers.utils", "accelerate.utils", "diffusers.utils")):
            for each in list(vars(module).values()):
                if isinstance(each, functools._lru_cache_wrapper):
                    each.cache_clear()
