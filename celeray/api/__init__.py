"""The window: REST and metrics. Reads and writes Redis only; needs no Ray and no user code."""
