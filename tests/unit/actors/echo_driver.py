"""A child for `DriverProcess` that sends back the ids of the runs that it got, after it was told to begin."""

from __future__ import annotations

import pickle
import sys
from multiprocessing.connection import Connection

from celeray.actors import channel
from celeray.actors.channel import DriverConfig, Run, Stop


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    (config,) = channel.receive(connection)
    assert isinstance(config, DriverConfig)
    channel.send(connection, [config.bridge_id])
    # Reads nothing until somebody who opens the file named by the configuration lets it.
    with open(config.ray_address or "", "rb"):
        pass
    while True:
        for command in channel.receive(connection):
            if isinstance(command, Stop):
                sys.exit(7)
            assert isinstance(command, Run)
            for run in pickle.loads(command.runs):
                channel.send(connection, [run.run_id, len(run.payload)])


if __name__ == "__main__":
    main()
