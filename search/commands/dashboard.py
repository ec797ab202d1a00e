"""Starts optuna-dashboard on a study's storage, as its own command does, until SIGINT.

In this process: the storage's address, with its password, stays in it.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore

from prunetune.results.dashboard.dashboard import ARTIFACTS
from prunetune.results.storage.address import public_address
from prunetune.spaces import ConfigError, MissingExtraError


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of requests."""


def create_server(storage: str, folder: Path, host: str, port: int) -> WSGIServer:
    """The dashboard, bound to its port.

    Args:
        storage: The address of the study's storage.
        folder: The study's.
        host: The address to listen at.
        port: Its port; 0 for any that is free.

    Raises:
        MissingExtraError: optuna-dashboard is not installed.
        ConfigError: Nothing can listen there.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise MissingExtraError("optuna-dashboard", "dashboard") from error
    application = wsgi(storage, artifact_store=FileSystemArtifactStore(folder / ARTIFACTS))
    try:
        return make_server(host, port, application, _Server, _Quiet)
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise ConfigError(f"{where}: cannot be used ({error.strerror}); give another port, or 0 for any") from error


def serve(storage: str, folder: Path, host: str, port: int) -> None:
    """Serves the dashboard until SIGINT; arguments and errors as of `create_server`."""
    with create_server(storage, folder, host, port) as server:
        address = storage if storage.startswith("sqlite:///") else public_address(storage)
        command = ["optuna-dashboard", address, "--artifact-dir", str(folder / ARTIFACTS)]
        print(f"{shlex.join(command)} --host {host} --port {server.server_port}")
        print(f"http://{host}:{server.server_port}/dashboard/", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
