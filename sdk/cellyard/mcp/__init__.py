"""A server of the Model Context Protocol: what models can do with notebooks. Needs the extra `cellyard[mcp]`.

`cellyard mcp` runs it. The parts: `arguments` (what tools take), `tools` and the modules beside it (what they do),
`rendering` and `bounds` (results sized for models; pure), `notebooks` (the sessions behind it), `server` (the
protocol), `stdio` and `http` (the ways in), `serving` (its life).
"""
