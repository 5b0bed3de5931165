"""Where code mode's code runs: in a container, in a process, or in the caller's own process."""
