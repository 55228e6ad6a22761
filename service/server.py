"""The web server's process: when it is ready it says so, when it is told to stop it drains."""

import asyncio
from collections.abc import Callable
from types import FrameType

import uvicorn

from service.app import create_app
from service.engine.client import Client, State
from service.settings import Settings


class Server(uvicorn.Server):
    """Uvicorn, with a client that takes no more jobs from the moment a signal comes."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.client = client
        super().__init__(
            uvicorn.Config(
                create_app(settings, client),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=settings.shutdown_seconds,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, then stop."""
        self.client.drain()
        super().handle_exit(sig, frame)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run_until_stopped(self, greet: Callable[[str], None]) -> None:
        """Serve until a signal comes; call `greet` with the address once the model is ready.

        Raises:
            ModelError: The model could not be loaded.
        """
        greeting = asyncio.create_task(self._greet(greet))
        await self.serve()
        greeting.cancel()
        (error,) = await asyncio.gather(greeting, return_exceptions=True)
        if isinstance(error, Exception):
            raise error

    async def _greet(self, greet: Callable[[str], None]) -> None:
        while not self.started:
            await asyncio.sleep(0.02)
        try:
            await self.client.ready()
            greet(self.url)
        finally:
            self.should_exit = self.should_exit or self.client.state is not State.READY
