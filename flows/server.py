"""Prefect's interface by plain HTTP: what starts often or outlives a server must not load Prefect (3.5 CPU-seconds)."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
import uuid
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

OWN: Final = {"127.0.0.1", "localhost", "::1"}
"""Hosts that no proxy is asked for."""
TRIES: Final = 30
BUSY: Final = 503  # another part of the server writes to SQLite
PROTECTED: Final = 403  # the server wants a token against forged requests, and we have none or an old one
PATIENCE: Final = 30.0  # seconds for one answer


@dataclass(slots=True)
class Server:
    """A Prefect server.

    Attributes:
        api: its address, ``http://host:4200/api``.
        headers: who we are.
        patience: seconds for one answer.
    """

    api: str
    headers: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    _opener: OpenerDirector | None = None

    @classmethod
    def of_environment(cls) -> Server | None:
        """The server that ``PREFECT_API_URL`` names, with its password or key; None where it names none."""
        api = os.environ.get("PREFECT_API_URL", "")
        return cls(api.rstrip("/"), _identity()) if api else None

    def call(self, path: str, body: Any = None, *, method: str | None = None, tries: int = TRIES) -> Any:
        """What the server says to a question.

        Args:
            path: behind ``/api``.
            body: sent as JSON; makes it a POST.
            method: another HTTP method.
            tries: how often a server that is busy is asked, once a second.

        Raises:
            OSError: no answer, or no good one (HTTPError).
        """
        for left in reversed(range(tries)):
            try:
                return self._ask(path, body, method)
            except HTTPError as error:
                if not left or error.code not in {BUSY, PROTECTED} or not self._appeased(error):
                    raise
        return None

    def _ask(self, path: str, body: Any, method: str | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | self.headers
        request = Request(f"{self.api}{path}", data, headers, method=method)
        if self._opener is None:
            self._opener = _opener(self.api)
        try:
            with self._opener.open(request, timeout=self.patience) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPException as error:  # a server that dies in the middle of an answer
            raise ConnectionError(f"{self.api} broke off: {error!r}") from error

    def _appeased(self, error: HTTPError) -> bool:
        """Whether another try has a chance."""
        if error.code == BUSY:
            time.sleep(1)
            return True
        client = self.headers.setdefault("Prefect-Csrf-Client", str(uuid.uuid4()))
        try:
            token = self._ask(f"/csrf-token?client={client}", None, None)["token"]
        except HTTPError:
            return False  # it has another reason
        renewed = self.headers.get("Prefect-Csrf-Token") != token
        self.headers["Prefect-Csrf-Token"] = token
        return renewed


def _identity() -> dict[str, str]:
    """As Prefect's own client says who it is: a password before a key."""
    if password := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}


def _opener(api: str) -> OpenerDirector:
    proxies = [ProxyHandler({})] if urlsplit(api).hostname in OWN else []
    context = ssl.create_default_context(cafile=os.environ.get("PREFECT_API_SSL_CERT_FILE") or None)
    return build_opener(*proxies, HTTPSHandler(context=context))
