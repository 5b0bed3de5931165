"""Images of an operator's own, for templates, by the recipe of the project's images."""
