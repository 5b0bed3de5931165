"""The console: a web page that shows what the controller does, live, and works in its notebooks."""
