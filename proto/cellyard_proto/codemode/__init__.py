"""What code mode's sides share: the namespaces in running code, the client that serves them, and the controller.

Needs nothing but the standard library, because it runs in kernels too.
"""
