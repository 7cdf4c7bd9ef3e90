"""On the path of one process it puts that process's wall clock ahead, as a machine without NTP would be."""

import os
import time

_shift_s = float(os.environ.get("FAULTS_CLOCK_SHIFT_S", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _shift_s
time.time_ns = lambda: _time_ns() + int(_shift_s * 1e9)
