"""The API server of a Kubernetes cluster, asked as a pod's service account; does I/O."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

TIMEOUT_S: Final = 5.0
STRATEGIC: Final = "application/strategic-merge-patch+json"


class KubernetesError(Exception):
    """The API server did not do it; the message is a few words without the token. `status` is its answer's, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubernetesApi:
    """`url` None is the server of the cluster that we run in; `namespace` None our own, which a file beside the token
    names.

    The files are read when they are needed: the token is renewed now and then.
    """

    def __init__(self, url: str | None, namespace: str | None, token_file: str, ca_file: str) -> None:
        self._url = url
        self._namespace = namespace
        self._token_file = token_file
        self._ca_file = ca_file
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self,
        method: str,
        group: str,
        path: str,
        *,
        right: str,
        query: Mapping[str, str] | None = None,
        patch: object = None,
    ) -> bytes:
        """One call on something of the namespace: `group` is "api/v1" or "apis/…"; the body of a 2xx answer.

        `right` is what a service account must be allowed to, for the message. Raises KubernetesError.
        """
        content = None if patch is None else msgspec.json.encode(patch)
        headers = {} if patch is None else {"content-type": STRATEGIC}
        try:
            client = self._client or self._opened()
            token = Path(self._token_file).read_text(encoding="ascii").strip()
            namespace = self._namespace or self._own_namespace()
            answer = await client.request(
                method,
                f"/{group}/namespaces/{namespace}/{path}",
                params=query,
                content=content,
                headers={"authorization": f"Bearer {token}", **headers},
            )
        except (OSError, UnicodeDecodeError) as error:
            raise KubernetesError(f"the service account cannot be read: {error}") from error
        except httpx.HTTPError as error:
            raise KubernetesError(f"the API server does not answer: {error or type(error).__name__}") from error
        if not answer.is_success:
            hint = f" (may the service account {right}?)" if answer.status_code in (401, 403) else _message(answer)
            raise KubernetesError(f"the API server answered {answer.status_code}{hint}", answer.status_code)
        return answer.content

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.aclose()

    def _own_namespace(self) -> str:
        return Path(self._token_file).with_name("namespace").read_text(encoding="ascii").strip()

    def _opened(self) -> httpx.AsyncClient:
        url = self._url
        if url is None:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise KubernetesError("this is no Kubernetes pod (KUBERNETES_SERVICE_HOST is not set): say `api`")
            url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        verify: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            verify = ssl.create_default_context(cafile=self._ca_file)
        self._client = httpx.AsyncClient(base_url=url, verify=verify, timeout=TIMEOUT_S, trust_env=False)
        return self._client


def _message(answer: httpx.Response) -> str:
    """What a `Status` says."""
    try:
        said: Any = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return ""
    message = said.get("message") if isinstance(said, dict) else None
    return f": {message}" if isinstance(message, str) else ""
