"""Documents as clients replicate them: what comes from a replica is read and judged in a process of its own."""
