"""Several controllers on one PostgreSQL: each holds a lease on its node's name, and through it the notebooks it has.

`standing` and `sightings` decide, `leases` and `owners` are the SQL, `membership` keeps the lease, `ownerships` answers
who has a notebook, `takeover` sees to nodes that are lost.
"""
