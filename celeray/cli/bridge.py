"""`celeray bridge`: a Celery worker on the GPU queues whose pool runs tasks on Ray."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

POOL = "celeray.scheduler.bridge.pool:TaskPool"


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("-A", "--app", "app_path", required=True, help="The Celery app, as `celery -A` takes it.")
@click.option("-Q", "--queues", help="Queues to consume. Default: the gpu.* queues and priority.")
@click.option("--ray-address", envvar="RAY_ADDRESS", help="The Ray cluster. Default: a local one of its own.")
@click.option("--simulate-gpus", help="Simulated devices, for instance 2x24GiB,1x80GiB.")
@click.option("-c", "--window", "--concurrency", type=click.IntRange(min=1), help="Messages held at once.")
@click.option("-n", "--hostname", default="gpu@%h", show_default=True, help="Celery node name.")
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@click.option("-f", "--logfile", type=click.Path(dir_okay=False), help="Log there instead of stderr.")
@click.option("-b", "--broker", help="Broker URL, if not the app's own.")
@click.option("--result-backend", help="Result backend URL, if not the app's own.")
@click.option("--config", "config_file", type=click.Path(exists=True, dir_okay=False), help="celeray.toml")
@click.argument("worker_args", nargs=-1, type=click.UNPROCESSED)
def bridge(worker_args: tuple[str, ...], **options: Any) -> None:
    """Run tasks of the GPU queues on Ray. What follows `--` goes to Celery's worker."""
    sys.exit(run_bridge(worker_args, **options))


def run_bridge(
    worker_args: tuple[str, ...],
    *,
    app_path: str,
    queues: str | None,
    ray_address: str | None,
    simulate_gpus: str | None,
    window: int | None,
    hostname: str,
    loglevel: str,
    logfile: str | None,
    broker: str | None,
    result_backend: str | None,
    config_file: str | None,
) -> int:
    """Load the app, install celeray on it, and run the worker until it is told to stop.

    Returns:
        The worker's exit code; 2 where the app or a setting can't be used, with the reason on stderr.
    """
    # Here and not above: `celeray --help` needs no Celery.
    from celery.app.utils import find_app

    from celeray.scheduler.errors import ConfigurationError
    from celeray.scheduler.installation import install
    from celeray.scheduler.settings import Settings

    sys.path.insert(0, os.getcwd())
    try:
        # Celery's own variables win over the app's configuration, here and in the executors that get them.
        os.environ.update({"CELERY_BROKER_URL": broker} if broker else {})
        os.environ.update({"CELERY_RESULT_BACKEND": result_backend} if result_backend else {})
        app = find_app(app_path)
        settings = Settings.load(
            app.conf,
            config_file=config_file,
            app=app_path,
            ray_address=ray_address,
            simulate_gpus=simulate_gpus,
            window=window,
        )
        install(app, settings)
    except (ConfigurationError, ImportError, AttributeError) as error:
        click.echo(f"celeray bridge: -A {app_path}: {error}", err=True)
        return 2
    app.conf.worker_pool = POOL
    chosen = queues or ",".join((*settings.gpu_queues, settings.priority_queue))
    argv = ["worker", "-Q", chosen, "-c", str(settings.window), "-n", hostname, "-l", loglevel]
    argv += ["-f", logfile] if logfile else []
    try:
        app.worker_main([*argv, *worker_args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
