"""Out of GPU memory is a wrong placement, not the task's failure: recognised here, placed again by the bridge.

Recognised is an exception, or one that it came from, by its class and module (none of the libraries is imported) or by
its text, since a task may wrap it. What the libraries raise:

* torch: `torch.cuda.OutOfMemoryError`, `torch.OutOfMemoryError` since 2.5, a RuntimeError before 1.13: "CUDA out of
  memory. Tried to allocate 496.00 MiB. GPU 0 has ..." (c10/cuda/CUDACachingAllocator.cpp), "HIP out of memory" on ROCm,
  and "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`".
* cupy: `cupy.cuda.memory.OutOfMemoryError`, a MemoryError (cupy#314): "Out of memory allocating 25,600,000 bytes
  (allocated so far: ...)" (cupy#2242); below the pool "cudaErrorMemoryAllocation: out of memory".
* jax: `XlaRuntimeError`, now `jax.errors.JaxRuntimeError`: "RESOURCE_EXHAUSTED: Out of memory while trying to allocate
  6291456 bytes." (jax#13428), "... Out of memory allocating 20029400304 bytes.", "... Failed to allocate request for".
* onnxruntime: `RuntimeException`: "... bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(...) Failed to
  allocate memory for requested buffer of size 8388608000" (onnxruntime#9939, #22702); "CUDA failure 2: out of memory".
* TensorFlow: `ResourceExhaustedError`: "OOM when allocating tensor with shape[...] and type float on
  /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc" (tensorflow#136), "failed to allocate memory".
* numba: `CudaAPIError`: "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY" (numba/cuda/cudadrv/driver.py).
* pycuda: `pycuda._driver.MemoryError`: "cuMemAlloc failed: out of memory" (pycuda#106).
* cuDNN: CUDNN_STATUS_ALLOC_FAILED, since 9 CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED; cuFFT:
  CUFFT_ALLOC_FAILED.

Never: a MemoryError of the host, what page-locked host memory raises where its text names the call, and the "out of
memory" of a database or of Ray. Where a library's text says neither (onnxruntime, jax), it is taken for the device's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celeray.scheduler.errors import OutOfGpuMemoryError

may_place_again: ContextVar[bool] = ContextVar("celeray_may_place_again", default=False)
"""Set by an executor around a run whose bridge would place it again."""

CHAIN_MOST = 64
"""Exceptions of one chain that are looked at."""
TEXT_MOST = 8_192
"""Characters of an exception's text that are looked at, from its begin and from its end: some carry whole logs."""
DETAIL_MOST = 300

_CLASSES = frozenset({("torch", "OutOfMemoryError"), ("cupy", "OutOfMemoryError"), ("pycuda", "MemoryError")})
"""Package and name of classes that say it whatever their text."""
_JAX = re.compile(r"RESOURCE_EXHAUSTED: (?:Out of memory|Failed to allocate request for)")
_TEXT_OF_CLASS: dict[tuple[str, str], re.Pattern[str]] = {
    ("jaxlib", "XlaRuntimeError"): _JAX,
    ("jaxlib", "JaxRuntimeError"): _JAX,
    ("jax", "JaxRuntimeError"): _JAX,
    ("tensorflow", "ResourceExhaustedError"): re.compile(
        r"OOM when allocating tensor|failed to allocate memory|Out of memory while trying to allocate"
    ),
    ("numba", "CudaAPIError"): re.compile(r"^\[2\]"),
}
"""Classes that say other things too, with what they say then."""
_TEXT = re.compile(
    r"""
      (?:CUDA|HIP)\ out\ of\ memory | (?:CUDA|HIP)\ error:\ out\ of\ memory | CUDA\ failure\ 2:\ out\ of\ memory
    | \bcudaErrorMemoryAllocation\b | \bCUDA_ERROR_OUT_OF_MEMORY\b
    | \bCU(?:BLAS|SOLVER|SPARSE|DNN)_STATUS_ALLOC_FAILED\b | \bCUFFT_ALLOC_FAILED\b
    | \bCUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED\b
    | \bcu[A-Z]\w+\ failed:\ out\ of\ memory
    | (?:RESOURCE_EXHAUSTED|Resource\ exhausted):\ Out\ of\ memory\ (?:while\ trying\ to\ allocate|allocating)\ \d
    | BFCArena::AllocateRawInternal.{0,500}?Failed\ to\ allocate\ memory\ for\ requested\ buffer\ of\ size\ \d
    | OOM\ when\ allocating\ tensor.{0,2000}?device:GPU
    """,
    re.VERBOSE | re.DOTALL,
)
"""What says it in an exception of any class."""
_WORDS = (
    "ut of memory",
    "OUT_OF_MEMORY",
    "MemoryAllocation",
    "ALLOC",
    "ailed to allocate",
    "OOM when",
    "[2]",
)
"""Every text that says it has one of them: most failures have none, and cost no more than looking for these."""
_OF_HOST = re.compile(
    r"cuda(?:HostAlloc|MallocHost|HostRegister)|cuMem(?:HostAlloc|AllocHost|HostRegister)"
    r"|device:CPU:\d+ by allocator|by allocator (?:mkl)?cpu",
)


class PlaceAgainError(BaseException):
    """The task ran out of GPU memory and will be placed again: its run ends here, and nothing of it is told.

    No `Exception`, since Celery's tracer would store and log that: for a `Reject`, too, it writes a warning with the
    traceback. It leaves the tracer, which has sent `task_postrun` then, and `celeray.actors.tracing` takes it. Celery's
    autoretry and a task's own `__call__` let it pass for the same reason.
    """


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the exception, or one that it came from, says that GPU memory ran out.

    Looked at are `__cause__`, `__context__` where it was not suppressed, and the members of groups.
    """
    return any(_says_so(each) for each in _chain(error))


def refuse_failure(error: BaseException) -> None:
    """Let a run that ran out of GPU memory be placed again, where that is possible.

    A soft time limit is one, also where it hits a task that is dealing with its memory.

    Raises:
        PlaceAgainError: it did, and it is.
    """
    if not may_place_again.get() or isinstance(error, SoftTimeLimitExceeded):
        return
    if is_out_of_gpu_memory(error):
        raise PlaceAgainError(f"{type(error).__name__}: {_text(error)}"[:DETAIL_MOST]) from error


def keep_from_autoretry(task: Any) -> None:
    """Let out of GPU memory pass Celery's autoretry, which would use up one of the task's retries for it.

    Autoretry wraps `run` and so stands inside of the gate; the body is `_orig_run` then, looked up with each call
    (celery/app/autoretry.py). Again changes nothing.
    """
    body: Callable[..., Any] | None = getattr(task, "_orig_run", None)
    if body is None or getattr(body, "celeray_guarded", False):
        return

    @wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except (Reject, Ignore, Retry):
            # A retry of the task's own is published by now.
            raise
        except Exception as error:
            request = task.request_stack.top
            if request is not None and not request.called_directly and not request.is_eager:
                refuse_failure(error)
            raise

    guarded.celeray_guarded = True  # type: ignore[attr-defined]
    task._orig_run = guarded


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OutOfGpuMemoryError):
        return True
    text = _text(error)
    said = any(word in text for word in _WORDS)
    if said and _OF_HOST.search(text):
        return False
    for name in _names(error):
        if name in _CLASSES:
            return True
        if said and name in _TEXT_OF_CLASS and _TEXT_OF_CLASS[name].search(text):
            return True
    return said and _TEXT.search(text) is not None


def _names(error: BaseException) -> Iterator[tuple[str, str]]:
    """Package and name of its class and of each base."""
    for cls in type(error).__mro__:
        yield cls.__module__.partition(".")[0], cls.__name__


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the class's own code
        return ""
    return text if len(text) <= 2 * TEXT_MOST else f"{text[:TEXT_MOST]}\n{text[-TEXT_MOST:]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from, each once."""
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < CHAIN_MOST:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions[:CHAIN_MOST]
        if each.__cause__ is not None:
            left.append(each.__cause__)
        if each.__context__ is not None and not each.__suppress_context__:
            left.append(each.__context__)
