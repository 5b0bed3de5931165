"""What a notebook's document on automerge looks like, for all that read and write it: controller and live replicas.

Importing its modules imports automerge; nothing else of this package does.
"""
