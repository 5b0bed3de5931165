"""The public services: translate, authorise, call, translate back."""
