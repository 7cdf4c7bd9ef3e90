"""What is known of XIDs: whose fault one is, and what it takes to use the device again.

Sources: the application errors are those that NVIDIA's device plugin for Kubernetes ignores (k8s-device-plugin,
internal/rm/health.go). All else follows the column "Resolution Bucket (Immediate Action)" of NVIDIA's catalog for
Ampere and newer, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html:

| immediate action | here |
|---|---|
| IGNORE, RESTART_APP | the device is out, and a canary may take it back |
| RESET_GPU, RESTART_BM, RESTART_VM, WORKFLOW_*, CHECK_*, UPDATE_SWFW, CONTACT_SUPPORT | out until an operator says so |
| not in the catalog, or without an action | out until an operator says so |
"""

from __future__ import annotations

from collections.abc import Collection

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Caused by what a task does; counted, and the device stays healthy."""
RESTART_APP_XIDS = frozenset(
    {
        *(8, 11, 25, 32, 39, 40, 41, 60, 69, 70, 71, 72, 75, 76, 77, 80, *range(82, 87), 88, 89, 94),
        *range(96, 106),
        *range(126, 136),
        139,
    }
)
"""The error is over with the process that had it: exceptions of engines and channels, contained memory errors."""
IGNORE_XIDS = frozenset(
    {14, 37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 157, 160, 161}
)
"""No action is needed."""
RECOVERY_ACTION_CHANGED = 154
"""Comes with another XID and repeats what that one needs, which NVML itself tells as the recovery action."""
CANARY_XIDS = (RESTART_APP_XIDS | IGNORE_XIDS | {RECOVERY_ACTION_CHANGED}) - APPLICATION_XIDS
"""After these a device may come back by a canary; after any other only by an operator or a restart of its node."""
NAMES = {
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single-bit ECC errors",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "the GPU's system processor does not answer",
    120: "error of the GPU's system processor",
    140: "unrecovered ECC error",
}
"""Of the common ones, for the reason that is shown."""


def describe(xid: int) -> str:
    """An XID in words, as far as it is a common one."""
    return f"XID {xid}" + (f": {NAMES[xid]}" if xid in NAMES else "")


def may_try_canary(xids: Collection[int]) -> bool:
    """Whether a canary may take a device back that all of these keep out."""
    return CANARY_XIDS.issuperset(xids)
