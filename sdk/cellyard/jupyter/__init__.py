"""Jupyter's front ends run their kernels in Cellyard sandboxes: a kernel provisioner for jupyter_client.

Needs the extra `cellyard[jupyter]`. `cellyard jupyter install` writes the kernelspecs that name the provisioner.
"""
