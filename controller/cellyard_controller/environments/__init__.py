"""From what defines an environment to a folder that a sandbox mounts: checked, fetched, finished, kept."""
