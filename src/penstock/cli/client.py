"""The HTTP API, from the outside: a small synchronous client on the standard library.

Objects of the API stay dictionaries, as the server sent them, so that an update sends back also the fields
that this version of the command does not know.
"""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from penstock.cli.errors import ApiError, CliError
from penstock.cli.target import Target

Json = dict[str, Any]
T = TypeVar("T")

#: Longer than the server takes to give up on anything itself, so that its own words arrive first.
TIMEOUT_SECONDS = 35.0
PER_PAGE = 100
CODE_UNKNOWN_PIPELINE = 1000
_ID = re.compile("[0-9a-f]{32}")


class Client:
    """Calls for one account of one server.

    Every method may block for `TIMEOUT_SECONDS` and raises ApiError when the server answered with an error,
    CliError when it did not answer in a way that can be understood.
    """

    def __init__(self, target: Target, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._opener = _opener(target.url.value)
        account = f"/client/v4/accounts/{quote(target.account_id.value, safe='')}"
        self._pipelines = f"{account}/pipelines"
        self._tokens = f"{account}/tokens"
        self._query = f"{account}/query"
        self._namespaces = f"{account}/workers/durable_objects/namespaces"

    def create_pipeline(self, body: Json) -> Json:
        return self._object("POST", self._pipelines, body)

    def get_pipeline(self, name_or_id: str) -> Json:
        """By its name or, where none has that name, by its id."""
        return self._of_pipeline("GET", name_or_id, "", dict)[1]

    def replace_pipeline(self, name: str, body: Json) -> Json:
        return self._object("PUT", self._pipeline(name), body)

    def delete_pipeline(self, name_or_id: str, *, discard: bool = False) -> tuple[str, Any]:
        """Returns the pipeline's name, and whatever the API calls its result; usually None. With `discard` its
        records that are in no file yet are lost."""
        return self._of_pipeline("DELETE", name_or_id, "?discard=true" if discard else "", object)

    def list_deployments(self, name_or_id: str) -> list[Json]:
        """The generations of a pipeline, the newest first."""
        return self._of_pipeline("GET", name_or_id, "/deployments", list)[1]

    def verify_pipeline(self, name: str, cursor: str, deep: bool) -> Json:
        """One step: `checked`, `problems`, and the `cursor` of the next, None when there is none."""
        query = urlencode({"deep": str(deep).lower()} | ({"cursor": cursor} if cursor else {}))
        return self._object("GET", f"{self._pipeline(name)}/verify?{query}")

    def replay_pipeline(self, name: str, body: Json) -> Json:
        """One step: `replayed`, `skipped`, and the `cursor` of the next, None when there is none."""
        return self._object("POST", f"{self._pipeline(name)}/replay", body)

    def list_pipelines(self, search: str | None = None) -> Iterator[Json]:
        """All pipelines whose name starts with `search`, page by page."""
        return self._pages(self._pipelines, {"search": search} if search else {})

    def pipeline_usage(self, name_or_id: str) -> Json:
        """What the pipeline took in and gave out."""
        return self._object("GET", f"{self._pipeline(self._name_of(name_or_id))}/usage")

    def tail_pipeline(self, name_or_id: str, sample: float) -> Iterator[bytes]:
        """The lines of a tail, without the empty ones, until the server ends it. Raises CliError when the
        connection is lost."""
        path = f"{self._pipeline(self._name_of(name_or_id))}/tail?{urlencode({'sample': sample})}"
        request = urllib.request.Request(self._target.url.value + path)
        request.add_header("Authorization", f"Bearer {self._target.token.value}")
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                for line in response:
                    if line.strip():
                        yield line
        except urllib.error.HTTPError as error:
            with error:
                self._understood("GET", path, error.code, error.read(), _retry_after_s(error))
        except (OSError, HTTPException, ValueError) as error:
            raise self._no_answer(error) from None

    def query_records(self, sql: str, *, live: bool, limit: int) -> Json:
        """The rows of one SELECT over pipelines: `columns`, `rows`, `truncated`, `files`."""
        return self._object("POST", self._query, {"sql": sql, "live": live, "limit": limit})

    def list_namespaces(self) -> Iterator[Json]:
        """The classes of objects that the server knows."""
        return self._pages(self._namespaces, {})

    def list_objects(self, namespace: str) -> Iterator[Json]:
        """All objects of a namespace, page by page, in the order of their ids."""
        cursor = ""
        while True:
            query = urlencode({"limit": PER_PAGE, "cursor": cursor})
            answer = self._call("GET", f"{self._objects(namespace)}?{query}")
            yield from answer.get("result") or []
            cursor = (answer.get("result_info") or {}).get("cursor") or ""
            if not cursor:
                return

    def find_object(self, namespace: str, name: str) -> Json | None:
        """The object of a name, None if there is none."""
        query = urlencode({"name": name})
        found = self._call("GET", f"{self._objects(namespace)}?{query}").get("result")
        return found[0] if isinstance(found, list) and found else None

    def get_object(self, namespace: str, id: str) -> Json:
        return self._object("GET", f"{self._objects(namespace)}/{quote(id, safe='')}")

    def query_object(self, namespace: str, id: str, sql: str, limit: int) -> Json:
        """The rows of one SELECT: `columns`, `rows`, `truncated`."""
        path = f"{self._objects(namespace)}/{quote(id, safe='')}/query"
        return self._object("POST", path, {"sql": sql, "limit": limit})

    def create_token(self, body: Json) -> Json:
        """The token, with its secret as `token`."""
        return self._object("POST", self._tokens, body)

    def list_tokens(self) -> Iterator[Json]:
        return self._pages(self._tokens, {})

    def revoke_token(self, id: str) -> Any:
        """Returns whatever the API calls its result; usually None."""
        return self._call("DELETE", f"{self._tokens}/{quote(id, safe='')}").get("result")

    def ingest(self, pipeline_id: str, body: bytes) -> int:
        """Send a JSON array of records; returns how many were committed."""
        answer = self._call("POST", f"/ingest/{quote(pipeline_id, safe='')}", body)
        result = answer.get("result")
        committed = result.get("committed") if isinstance(result, dict) else None
        if not isinstance(committed, int):
            raise CliError(f"the server did not say how many records it committed: {answer}")
        return committed

    def _of_pipeline(self, method: str, name_or_id: str, rest: str, type: type[T]) -> tuple[str, T]:
        """The pipeline's name and the result, of a type, of a call about it."""
        name = name_or_id
        try:
            answer = self._call(method, self._pipeline(name) + rest)
        except ApiError as error:
            name = str(self._by_id(name_or_id, error).get("name"))
            answer = self._call(method, self._pipeline(name) + rest)
        result = answer.get("result")
        if not isinstance(result, type):
            raise _no_result(method, self._pipeline(name) + rest)
        return name, result

    def _by_id(self, id: str, error: ApiError) -> Json:
        """The pipeline with this id; `error` is what the API said to it as a name. (The API knows names only.)"""
        if error.code != CODE_UNKNOWN_PIPELINE:
            raise error
        if _ID.fullmatch(id):
            for pipeline in self.list_pipelines():
                if pipeline.get("id") == id:
                    return pipeline
        raise ApiError(
            f"there is no pipeline with the name or id {id!r}; `penstock pipelines list` shows all "
            f"[code: {error.code}]",
            status=error.status,
            code=error.code,
        ) from None

    def _name_of(self, name_or_id: str) -> str:
        """The name of a pipeline, which is what paths are made of. Costs a request only for what may be an id."""
        return str(self.get_pipeline(name_or_id)["name"]) if _ID.fullmatch(name_or_id) else name_or_id

    def _pages(self, path: str, query: dict[str, str]) -> Iterator[Json]:
        page = seen = 0
        while True:
            page += 1
            text = urlencode({"page": page, "per_page": PER_PAGE, **query})
            answer = self._call("GET", f"{path}?{text}")
            result = answer.get("result")
            # The server may give fewer than asked for, so only an empty page is certainly past the end, unless the
            # server says how many there are.
            if not isinstance(result, list) or not result:
                return
            yield from result
            seen += len(result)
            total = (answer.get("result_info") or {}).get("total_count")
            if isinstance(total, int) and seen >= total:
                return

    def _objects(self, namespace: str) -> str:
        return f"{self._namespaces}/{quote(namespace, safe='')}/objects"

    def _pipeline(self, name: str) -> str:
        return f"{self._pipelines}/{quote(name, safe='')}"

    def _object(self, method: str, path: str, body: Json | None = None) -> Json:
        result = self._call(method, path, body).get("result")
        if not isinstance(result, dict):
            raise _no_result(method, path)
        return result

    def _call(self, method: str, path: str, body: Json | bytes | None = None) -> Json:
        request = urllib.request.Request(self._target.url.value + path, method=method)
        request.add_header("Accept", "application/json")
        request.add_header("Authorization", f"Bearer {self._target.token.value}")
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        retry_after_s = None
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
                retry_after_s = _retry_after_s(error)
        except (OSError, HTTPException, ValueError) as error:
            raise self._no_answer(error) from None
        return self._understood(method, path, status, content, retry_after_s)

    def _understood(self, method: str, path: str, status: int, content: bytes, retry_after_s: int | None) -> Json:
        try:
            answer = json.loads(content) if content else {}
        except ValueError:
            answer = None
        success = 200 <= status < 300
        if not isinstance(answer, dict) or (not success and not answer):
            raise ApiError(
                f"{self._where()} answered {method} {path} with status {status} and not with the JSON of "
                "the API: is it a Penstock server?",
                status=status,
            )
        if success and answer.get("success", True):
            return answer
        message, code = _first_error(answer)
        text = f"{message} [code: {code}]" if code else message
        if status in (401, 403):
            token = self._target.token.origin
            text = f"{self._where()} refused the token from {token}: {text}"
        raise ApiError(text, status=status, code=code, retry_after_s=retry_after_s)

    def _where(self) -> str:
        return f"{self._target.url.value} (from {self._target.url.origin})"

    def _no_answer(self, error: Exception) -> CliError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ConnectionRefusedError):
            return CliError(f"nothing answers: is `penstock serve` running? Tried {self._where()}")
        if isinstance(cause, TimeoutError):
            return CliError(f"no answer from {self._where()} within {self._timeout_seconds:g} s")
        if isinstance(cause, ssl.SSLError):
            return CliError(f"no secure connection to {self._where()}: {cause.reason or cause}")
        return CliError(f"no connection to {self._where()}: {cause}")


def _no_result(method: str, path: str) -> CliError:
    return CliError(f"the server answered {method} {path} with success, but without a result")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect becomes an error: following one would carry the token to whatever host it names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    host = urlsplit(url).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        # No proxy can reach this machine's own loopback, whatever HTTP_PROXY says.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _first_error(answer: Json) -> tuple[str, int]:
    """The message and the code of an error answer: `errors` of the control API or ingestion's `error`."""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else answer.get("error")
    if not isinstance(first, dict):
        return "the server gave no reason", 0
    code = first.get("code")
    return str(first.get("message", "the server gave no reason")), code if isinstance(code, int) else 0


def _retry_after_s(error: urllib.error.HTTPError) -> int | None:
    wait = error.headers.get("Retry-After", "")
    return int(wait) if wait.isdigit() and len(wait) < 6 else None
