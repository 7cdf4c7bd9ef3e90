"""`celeray get tenants`."""

from __future__ import annotations

from typing import Any

import click

from celeray.cli.options import output_option
from celeray.cli.render import print_json, print_table
from celeray.cli.status import open_source, source_options
from celeray.scheduler.status import TenantStatus

COLUMNS = ("tenant", "weight", "waiting", "running", "used GiB h", "share", "in all GiB h")
GIB_HOUR = 1024 * 3600


@click.command("tenants")
@source_options
@output_option
def get_tenants(output: str, **options: Any) -> None:
    """Tenants: what of theirs waits and runs, and the VRAM that they have used: faded by now, and in all."""
    found = open_source(**options).tenants()
    if output == "json":
        print_json(found)
        return
    print_table(COLUMNS, map(tenant_row, found.tenants), empty="no message has named a tenant")


def tenant_row(tenant: TenantStatus) -> tuple[str, ...]:
    """A tenant's line."""
    return (
        tenant.tenant or "(none)",
        f"{tenant.weight:g}",
        str(tenant.waiting),
        str(tenant.running),
        f"{tenant.used_mib_s / GIB_HOUR:.2f}",
        "-" if tenant.share is None else f"{tenant.share:.0%}",
        f"{tenant.total_mib_s / GIB_HOUR:.2f}",
    )
