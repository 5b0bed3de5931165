"""The client. Its asyncio flavour is written by hand, the other is generated from it by scripts/sync.py."""
