"""optuna-dashboard on one study, as a WSGI application that changes nothing but notes and shows our front as its best.

optuna-dashboard's own best trials are those that no other dominates, whether they keep the budget or not.
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna

from prunetune.results.dashboard_storage import DashboardStorage
from prunetune.results.findings import Findings

NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note/?")
"""What a reader may change."""

STUDY = re.compile(r"/api/studies/\d+/?")
"""What a page asks for all that it shows."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def dashboard_app(study: optuna.Study, folder: Path, is_local: bool = True) -> Application:
    """The dashboard of a study.

    Args:
        study: What to show.
        folder: The study's, where the records of its trainings are.
        is_local: As `guarded` takes it.

    Raises:
        MissingExtraError: optuna-dashboard is not installed.
    """
    shown = DashboardStorage(study, folder)
    from optuna_dashboard import wsgi

    logging.getLogger("optuna_dashboard").setLevel(logging.CRITICAL)  # what is refused is told to the page
    application: Application = wsgi(shown, artifact_store=shown.pictures)
    return guarded(FrontIsBest(application, lambda: shown.pictures.found), is_local)


class FrontIsBest:
    """Puts our front in the place of the dashboard's best trials.

    Args:
        application: The dashboard.
        read: Gives the study as it was last read.
    """

    def __init__(self, application: Application, read: Callable[[], Findings | None]) -> None:
        self._application, self._read = application, read
        self._seen: dict[int, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a request."""
        if environ.get("REQUEST_METHOD") != "GET" or not STUDY.fullmatch(environ.get("PATH_INFO", "")):
            return self._application(environ, start_response)
        status, headers, told = self._ask(environ)
        found = self._read()
        if isinstance(told, dict) and "best_trials" in told and found is not None:
            members = list(dict.fromkeys(network.trial for network in found.front))
            self._remember(told)
            if not all(number in self._seen for number in members):  # a page asks only for what came since
                self._remember(self._ask({**environ, "QUERY_STRING": ""})[2])
            told["best_trials"] = [self._seen[number] for number in members if number in self._seen]
        body = json.dumps(told).encode()
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]

    def _ask(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], Any]:
        answered: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            answered[:] = [status, headers]
            return lambda _: None

        clean = {key: value for key, value in environ.items() if not key.startswith(("bottle.", "route."))}
        body = b"".join(self._application({**clean, "wsgi.input": io.BytesIO()}, start))
        return answered[0], answered[1], json.loads(body)

    def _remember(self, told: Any) -> None:
        for trial in told.get("trials", []):
            if trial["state"] == "Complete":
                self._seen[trial["number"]] = trial


def guarded(application: Application, is_local: bool) -> Application:
    """Lets a dashboard be read, and its notes be edited; nothing else.

    Args:
        application: The dashboard.
        is_local: Whether it is for this machine alone. Then it answers to no other name: a page from elsewhere could
            have its own name lead here.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ.get("REQUEST_METHOD", "GET"), environ.get("PATH_INFO", "")
        if is_local and not is_loopback(_hostname(environ.get("HTTP_HOST", ""))):
            return _refuse(start_response, "this dashboard is for its own machine; give --host to open it to others")
        if method not in ("GET", "HEAD") and not (method == "PUT" and NOTE.fullmatch(path)):
            return _refuse(start_response, "prunetune's dashboard changes nothing but notes")
        return application(environ, start_response)

    return answer


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _refuse(start_response: Callable[..., Any], reason: str) -> Iterable[bytes]:
    start_response("403 Forbidden", [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]
