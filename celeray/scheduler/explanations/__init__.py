"""Why a task waits, and what would become of a request: answers from what the bridges published. Reads Redis only."""
