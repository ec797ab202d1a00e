"""Serves optuna-dashboard on one study, in this process: the storage's address, with its password, stays in it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna

from prunetune.results.dashboard_app import dashboard_app, is_loopback
from prunetune.spaces import ConfigError


class Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread: a page asks for many pictures at once."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Binds to the address, without asking a name server for its name."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Six(Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of requests."""

    def address_string(self) -> str:
        """The caller, without asking a name server."""
        return str(self.client_address[0])


def create_server(study: optuna.Study, folder: Path, host: str, port: int) -> Server:
    """A server of the dashboard, bound to its port.

    Args:
        study: What to show.
        folder: The study's.
        host: The address to listen at.
        port: Its port; 0 for any that is free.

    Raises:
        MissingExtraError: optuna-dashboard is not installed.
        ConfigError: Nothing can listen there.
    """
    application = dashboard_app(study, folder, is_local=is_loopback(host))
    try:
        server = (_Six if ":" in host else Server)((host, port), _Quiet)
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise ConfigError(f"{where}: cannot be used ({error.strerror}); give another port, or 0 for any") from error
    server.set_app(application)
    return server


def serve(study: optuna.Study, folder: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves the dashboard until SIGINT or SIGTERM.

    Args:
        study: What to show.
        folder: The study's.
        host: The address to listen at.
        port: Its port; 0 for any that is free.
        say: Is told where it is, and what to be wary of.

    Raises:
        MissingExtraError, ConfigError: As `create_server` does.
    """
    with create_server(study, folder, host, port) as server:
        name = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            say("there is no password: whoever reaches this address reads the study and edits its notes")
        say(f"http://{name}:{server.server_port}/dashboard/studies/{study._study_id}")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
