"""A WebSocket through a wake, by python3-websockets: usage: websockets.py URL"""

import asyncio, os, sys, websockets

async def main():
    async with websockets.connect(sys.argv[1], max_size=4 << 20, open_timeout=60) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        # In fragments: they come together.
        await socket.send(["one ", "two ", "three"])
        assert await socket.recv() == "one two three"
        frame = os.urandom(1 << 20)
        await socket.send(frame)
        assert await socket.recv() == frame
        await asyncio.wait_for(await socket.ping(b"are you there"), 60)
        # Both ends choose a code.
        await socket.send("close 4321 enough")
        try:
            await socket.recv()
            raise SystemExit("it is open")
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "enough"), closed
    async with websockets.connect(sys.argv[1], open_timeout=60) as socket:
        await socket.close(4000, "bye")
        assert socket.close_code == 4000, socket.close_code

asyncio.run(main())
print("done")
