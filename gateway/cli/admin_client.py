"""Asks the admin port of a running gateway; does I/O."""

import httpx

ANSWER_S = 240.0
"""Reports are made while one waits."""


class AdminError(Exception):
    """The gateway does not answer, or says no; the message is a sentence."""


class AdminClient:
    """One admin port, at a base URL; `token` is its bearer token, where it wants one."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token

    def get(self, path: str) -> bytes:
        """The body of an answer that is well. Raises AdminError."""
        return self._ask("GET", path)

    def post(self, path: str) -> bytes:
        """The same of a POST without a body."""
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> bytes:
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        try:
            with httpx.Client(timeout=ANSWER_S, trust_env=False) as client:
                answer = client.request(method, self.url + path, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AdminError(f"no gateway answers at {self.url}: {error}") from error
        if answer.status_code >= 400:
            raise AdminError(_words(answer))
        return answer.content


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code}; is it a prefixgate admin port?"
