"""The hands on the cluster: the only code that imports Ray and NVML."""
