"""The kernel agent: the small program in a sandbox that hosts its kernel and talks to the controller."""
