"""Sandboxes: started and ended by the supervisor, talked to over the agent link, claimed by rooms."""
