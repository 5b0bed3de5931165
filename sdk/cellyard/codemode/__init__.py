"""Code mode: agents' code that calls tools, keeps workflows and artifacts, and brings packages."""
