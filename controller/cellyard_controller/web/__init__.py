"""HTTP: health for whoever watches the controller, and metrics for its operator."""
