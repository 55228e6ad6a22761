"""The web server's process: when it is ready it says so, when it is told to stop it drains."""

import asyncio
from collections.abc import Callable
from time import monotonic
from types import FrameType

import uvicorn

from service.app import create_app
from service.deps import Service
from service.engine.client import Client
from service.settings import Settings

ANSWER_SECONDS = 3


class Server(uvicorn.Server):
    """Uvicorn that, from the moment a signal comes, takes no more jobs and lets those that are in finish.

    Until they have, or their time is up, it goes on listening, and tells who asks that it drains. A second
    signal ends it at once, and only then its exit code is the signal's.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        app = create_app(settings, client)
        self.client = client
        self._service: Service = app.state.service
        self._host = settings.host
        self._drain_seconds = settings.drain_seconds
        self._drained_by: float | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies,
                lifespan="on",
                timeout_graceful_shutdown=ANSWER_SECONDS,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, then stop."""
        if self._drained_by is not None:
            super().handle_exit(sig, frame)
            return
        self.client.drain()
        self._drained_by = monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Say whether to leave the main loop; asked ten times a second."""
        if self._drained_by is not None and (self.client.is_idle or monotonic() > self._drained_by):
            await self.client.stop()
            self.should_exit = True
        return await super().on_tick(counter)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run_until_stopped(self, greet: Callable[[str, str], None]) -> None:
        """Serve until a signal comes.

        Args:
            greet: Called once the model is ready, with the address, and with a warning or "".

        Raises:
            ModelError: The model could not be loaded.
            EngineError: The engine ended before it was ready.
            OSError: What must be kept cannot be kept where the settings say.
        """
        await self._service.open_storage()  # the web server would tell what is wrong in a traceback
        greeting = asyncio.create_task(self._greet(greet))
        await self.serve()
        greeting.cancel()
        (error,) = await asyncio.gather(greeting, return_exceptions=True)
        if isinstance(error, Exception):
            raise error

    async def _greet(self, greet: Callable[[str, str], None]) -> None:
        while not self.started:
            await asyncio.sleep(0.02)
        try:
            await self.client.ready()
        except Exception:
            self.should_exit = True
            raise
        greet(self.url, await self._service.auth.warning(self._host))
