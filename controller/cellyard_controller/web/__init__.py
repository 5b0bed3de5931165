"""HTTP: health for whoever watches the controller, metrics for its operator, and the console for people."""

ADDRESS_FILE = "http.address"
"""In the data folder, while HTTP is served: the console's URL."""
