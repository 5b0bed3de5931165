"""What is kept for code mode: tenants' workflows and artifacts."""
