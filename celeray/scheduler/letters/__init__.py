"""Dead letters: parked messages as operators see them, send them again and discard them. Read in this order: `record`
(one letter), `envelope` (its message), `attempts`, `store` (all of them), `selecting`, `editing`, `parcels`, `redrive`,
`discard`; then `due` (retry policies), `reports` and `front_door` (the queue for dead letters), `chords`."""
