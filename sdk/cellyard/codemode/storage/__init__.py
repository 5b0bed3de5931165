"""Where code mode keeps workflows, artifacts, tools and requirements."""
