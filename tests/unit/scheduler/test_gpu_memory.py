"""Out of GPU memory is told from every other failure, whichever library says it and however it is wrapped."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry, SoftTimeLimitExceeded

import celeray
from celeray.scheduler.gpu_memory import (
    CHAIN_MOST,
    DETAIL_MOST,
    TEXT_MOST,
    PlaceAgainError,
    is_out_of_gpu_memory,
    keep_from_autoretry,
    may_place_again,
    refuse_failure,
)


def raised_by(module: str, name: str, *args: Any, base: type[Exception] = RuntimeError) -> Exception:
    """An exception of a class that looks like a library's."""
    return type(name, (base,), {"__module__": module})(*args)


TORCH_TEXT = (
    "CUDA out of memory. Tried to allocate 496.00 MiB. GPU 0 has a total capacity of 14.75 GiB of which 235.06 MiB is "
    "free. Process 20398 has 14.52 GiB memory in use."
)
ORT_TEXT = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'/fc1/"
    "Conv' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate "
    "memory for requested buffer of size 8388608000"
)
TF_TEXT = (
    "OOM when allocating tensor with shape[16,112,112,147] and type float on "
    "/job:localhost/replica:0/task:0/device:{}:0 by allocator {} [Op:Mul]"
)
TF = "tensorflow.python.framework.errors_impl"
JAX_TEXT = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 6291456 bytes.\nBufferAssignment OOM Debugging."
CASES: dict[str, Exception] = {
    "torch since 2.5": raised_by("torch", "OutOfMemoryError", TORCH_TEXT),
    "torch since 1.13": raised_by("torch.cuda", "OutOfMemoryError", TORCH_TEXT),
    "torch before": RuntimeError(TORCH_TEXT),
    "torch without a text": raised_by("torch", "OutOfMemoryError"),
    "torch on ROCm": RuntimeError(
        "HIP out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.98 GiB total capacity"
    ),
    "torch below its allocator": RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronous"
    ),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cufft": RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    "cupy": raised_by(
        "cupy.cuda.memory", "OutOfMemoryError", "Out of memory allocating 25,600,000 bytes", base=MemoryError
    ),
    "cupy below its pool": raised_by(
        "cupy_backends.cuda.api.runtime", "CUDARuntimeError", "cudaErrorMemoryAllocation: out of memory"
    ),
    "jax": raised_by("jaxlib.xla_extension", "XlaRuntimeError", JAX_TEXT),
    "jax now": raised_by(
        "jax.errors", "JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory allocating 2002 bytes."
    ),
    "jax without its class": RuntimeError(JAX_TEXT),
    "jax, an allocation": raised_by(
        "jaxlib._jax",
        "XlaRuntimeError",
        "RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB (2147483648B) on device ordinal 0",
    ),
    "onnxruntime": raised_by("onnxruntime.capi.onnxruntime_pybind11_state", "RuntimeException", ORT_TEXT),
    "onnxruntime, cuda": RuntimeError(
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc(&p, size);"
    ),
    "tensorflow": raised_by(TF, "ResourceExhaustedError", TF_TEXT.format("GPU", "GPU_0_bfc")),
    "tensorflow, wrapped": RuntimeError(f"training failed: {TF_TEXT.format('GPU', 'GPU_0_bfc')}"),
    "tensorflow, short": raised_by(TF, "ResourceExhaustedError", "failed to allocate memory [Op:AddV2]"),
    "numba": raised_by(
        "numba.cuda.cudadrv.driver",
        "CudaAPIError",
        "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY",
    ),
    "numba's number": raised_by("numba.cuda.cudadrv.driver", "CudaAPIError", "[2] Call to cuMemAlloc failed"),
    "pycuda": raised_by("pycuda._driver", "MemoryError", "cuMemAlloc failed: out of memory"),
    "pycuda by text": RuntimeError("cuMemAlloc failed: out of memory"),
    "keops": RuntimeError("[KeOps] error: cuMemAlloc(&p) failed with error CUDA_ERROR_OUT_OF_MEMORY"),
    "another process's traceback": RuntimeError(f"-- Process 1 terminated --\nTraceback: {TORCH_TEXT}"),
    "the task's own word": celeray.OutOfGpuMemoryError("the engine says so"),
}
FALSE_FRIENDS: dict[str, BaseException] = {
    "host": MemoryError(),
    "numpy": raised_by(
        "numpy.core._exceptions",
        "_ArrayMemoryError",
        "Unable to allocate 8.00 GiB for an array with shape (1073741824,) and data type float64",
        base=MemoryError,
    ),
    "torch on the host": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to allocate 34 bytes."
    ),
    "a torch class of another name": raised_by(
        "torch", "DistBackendError", "NCCL error: unhandled system error"
    ),
    "fork": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "redis": raised_by(
        "redis.exceptions", "OutOfMemoryError", "command not allowed when used memory > 'maxmemory'."
    ),
    "postgres": raised_by("asyncpg.exceptions", "OutOfMemoryError", "out of memory"),
    "ray": raised_by(
        "ray.exceptions", "OutOfMemoryError", "Task was killed due to the node running low on memory."
    ),
    "a class of the user's": raised_by("film.tasks", "OutOfMemoryError", "out of memory"),
    "the text alone": RuntimeError("out of memory"),
    "java": RuntimeError("java.lang.OutOfMemoryError: Java heap space"),
    "a quota": raised_by(
        "google.api_core.exceptions", "ResourceExhausted", "429 RESOURCE_EXHAUSTED: Quota exceeded"
    ),
    "a quota of jax": raised_by(
        "jaxlib.xla_extension", "XlaRuntimeError", "RESOURCE_EXHAUSTED: Quota exceeded"
    ),
    "another error of jax": raised_by("jaxlib.xla_extension", "XlaRuntimeError", "INTERNAL: ptxas failed"),
    "tensorflow on the host": raised_by(TF, "ResourceExhaustedError", TF_TEXT.format("CPU", "cpu")),
    "tensorflow with mkl": raised_by(TF, "ResourceExhaustedError", TF_TEXT.format("CPU", "mklcpu")),
    "another error of numba": raised_by(
        "numba.cuda.cudadrv.driver",
        "CudaAPIError",
        "[719] Call to cuMemAlloc results in CUDA_ERROR_LAUNCH_FAILED",
    ),
    "page-locked": raised_by("pycuda._driver", "MemoryError", "cuMemHostAlloc failed: out of memory"),
    "page-locked by name": RuntimeError("cudaHostAlloc: cudaErrorMemoryAllocation: out of memory"),
    "a lost device": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "no text at all": ValueError(),
}


@pytest.mark.parametrize("error", CASES.values(), ids=CASES.keys())
def test_each_library_is_recognised(error: Exception) -> None:
    assert is_out_of_gpu_memory(error)


@pytest.mark.parametrize("error", FALSE_FRIENDS.values(), ids=FALSE_FRIENDS.keys())
def test_false_friends_are_not(error: BaseException) -> None:
    assert not is_out_of_gpu_memory(error)


def wrapped(error: Exception, how: str) -> BaseException:
    """As a task may turn it into another one."""
    try:
        try:
            raise error
        except Exception as caught:
            if how == "cause":
                raise ValueError("no image") from caught
            if how == "hidden":
                raise ValueError("no image") from None
            if how == "group":
                raise ExceptionGroup("several", [KeyError("one"), ExceptionGroup("more", [caught])]) from None
            raise ValueError("no image")  # noqa: B904 - its context is what is tested
    except Exception as outer:  # noqa: BLE001 - the one raised above
        return outer


@pytest.mark.parametrize(
    ("how", "found"), [("cause", True), ("context", True), ("group", True), ("hidden", False)]
)
def test_what_an_exception_came_from_counts(how: str, found: bool) -> None:
    assert is_out_of_gpu_memory(wrapped(RuntimeError(TORCH_TEXT), how)) is found


def test_a_subclass_of_a_librarys_class_is_one() -> None:
    base = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
    own = type("EngineError", (base,), {"__module__": "film"})
    assert is_out_of_gpu_memory(own())


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_gpu_memory(first)
    second.__context__ = RuntimeError(TORCH_TEXT)
    second.__suppress_context__ = False
    assert is_out_of_gpu_memory(first)


def test_a_long_chain_is_followed_so_far() -> None:
    def chain(length: int) -> Exception:
        error: Exception = RuntimeError(TORCH_TEXT)
        for _ in range(length):
            outer = ValueError("wrapped")
            outer.__cause__, error = error, outer
        return error

    assert is_out_of_gpu_memory(chain(CHAIN_MOST - 1))
    assert not is_out_of_gpu_memory(chain(CHAIN_MOST))


def test_of_a_long_text_both_ends_are_read() -> None:
    assert is_out_of_gpu_memory(RuntimeError(TORCH_TEXT + "." * 10 * TEXT_MOST))
    assert is_out_of_gpu_memory(RuntimeError("." * 10 * TEXT_MOST + TORCH_TEXT))


def test_an_exception_whose_text_fails_is_none() -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError(TORCH_TEXT)

    assert not is_out_of_gpu_memory(BadError())


@pytest.fixture
def placing_again() -> Any:
    token = may_place_again.set(True)
    yield
    may_place_again.reset(token)


def test_a_failure_is_refused_only_where_it_is_placed_again(placing_again: None) -> None:
    with pytest.raises(PlaceAgainError, match="RuntimeError: CUDA out of memory") as caught:
        refuse_failure(RuntimeError(TORCH_TEXT + "." * 1000))
    assert len(str(caught.value)) == DETAIL_MOST
    refuse_failure(ValueError("another"))
    may_place_again.set(False)
    refuse_failure(RuntimeError(TORCH_TEXT))


def test_a_soft_time_limit_is_one(placing_again: None) -> None:
    try:
        try:
            raise RuntimeError(TORCH_TEXT)
        except RuntimeError:
            raise SoftTimeLimitExceeded(3.0)  # noqa: B904 - it hits wherever the task is
    except SoftTimeLimitExceeded as error:
        refuse_failure(error)


def test_what_places_again_is_no_exception_that_a_task_would_catch() -> None:
    assert not issubclass(PlaceAgainError, Exception)


Make = Callable[..., Any]


@pytest.fixture
def make() -> Make:
    """Makes a task with autoretry that raises what it is given, and runs it as a worker would."""

    def run(error: Exception, **request: Any) -> BaseException | None:
        app = Celery("auto", broker="memory://", set_as_current=False)

        @app.task(name="auto", shared=False, bind=True, autoretry_for=(Exception,))
        def auto(self: Any) -> None:
            raise error

        published: list[Any] = []
        auto.apply_async = lambda *args, **options: published.append(options)
        auto.signature_from_request = lambda *args, **options: auto
        keep_from_autoretry(auto)
        keep_from_autoretry(auto)
        fields = {
            "called_directly": False,
            "is_eager": False,
            "retries": 0,
            "args": (),
            "kwargs": {},
        } | request
        auto.push_request(**fields)
        try:
            auto.run()
        except BaseException as outcome:  # noqa: BLE001 - what is tested
            return outcome
        finally:
            auto.pop_request()
        return None

    return run


def test_autoretry_does_not_take_it(make: Make, placing_again: None) -> None:
    assert isinstance(make(RuntimeError(TORCH_TEXT)), PlaceAgainError)
    assert isinstance(make(ValueError("another")), Retry)


def test_autoretry_takes_it_where_nothing_would_place_it_again(make: Make) -> None:
    assert isinstance(make(RuntimeError(TORCH_TEXT)), Retry)


def test_a_task_that_another_one_calls_fails_into_it(make: Make, placing_again: None) -> None:
    assert not isinstance(make(RuntimeError(TORCH_TEXT), called_directly=True), PlaceAgainError)
