"""Dead letters: parked messages as operators see them, send them again and discard them. Read in this order: `record`
(one letter), `envelope` (its message), `store` (all of them), `selecting`, `redrive`, `discard`."""
