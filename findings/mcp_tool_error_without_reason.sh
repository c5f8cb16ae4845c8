#!/usr/bin/env bash
# mcp 2.3.0: a tool's exception reaches the client without its message, unless it is a ToolError.
#
# Up to 1.30.0 FastMCP told "Error executing tool read: the file is empty" for any exception, which is how a model
# learned what to do otherwise. MCPServer, which FastMCP became in 2.0, tells "Error executing tool read" for a
# ValueError, so a model that calls the tool cannot tell one fault from another, and a reward that depends on mended
# calls stays away, without a warning. A server written for 1.x raises ToolError instead, or returns the text. (Faults
# of the arguments are still told in full.)
#
# Seen:
#   | 1.30.0 ValueError: Error executing tool read: the file is empty
#   | 1.30.0 ToolError: Error executing tool tell: the file is empty
#   | 2.3.0 ValueError: Error executing tool read
#   | 2.3.0 ToolError: Error executing tool tell: the file is empty
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/server.py" <<'PYTHON'
import asyncio
import logging
from importlib.metadata import version

logging.disable()
try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError

server = MCPServer("small")


@server.tool()
def read() -> str:
    raise ValueError("the file is empty")


@server.tool()
def tell() -> str:
    raise ToolError("the file is empty")


async def main():
    try:
        from mcp import Client

        connected = Client(server)
    except ImportError:
        from mcp.shared.memory import create_connected_server_and_client_session

        connected = create_connected_server_and_client_session(server._mcp_server)
    async with connected as client:
        for name, kind in (("read", "ValueError"), ("tell", "ToolError")):
            result = await client.call_tool(name, {})
            print(f"{version('mcp')} {kind}: {result.content[0].text}")


asyncio.run(main())
PYTHON

for version in 1.30.0 2.3.0; do
    "${PYTHON:-python3}" -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "mcp==$version"
    "$work/$version/bin/pip" freeze | grep -E '^mcp==' >&2
    timeout 120 "$work/$version/bin/python" "$work/server.py" 2>/dev/null
done | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "mcp no longer does what is stated here" >&2
    exit 1
fi
