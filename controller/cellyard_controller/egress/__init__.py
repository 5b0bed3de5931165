"""The way out of a sandbox that has no network: a proxy outside, with a list of names for each sandbox.

A process of its own speaks with the hostile side (`__main__`): it parses requests, resolves names, checks addresses
and connects to what it has checked. The controller's end (`process`) makes each sandbox's socket, says what is on its
list, and keeps that process running.
"""
