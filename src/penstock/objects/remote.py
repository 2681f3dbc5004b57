"""Calls as bytes: the same call, the same answer and the same errors whether an object lives here or in a
sibling process.

Arguments and results are msgpack. Each method's annotations say what they are decoded to, so a `msgspec.Struct`
arrives as one; what is not annotated arrives as plain dicts and lists. What is annotated as `AsyncIterator[bytes]`
is a stream (`streams.py`). Values that cannot change are handed
over as they are inside a process; everything else is copied through bytes there too, so that a caller never
shares a mutable value with an object.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Any

import msgspec

from penstock.base.errors import KINDS, Internal, Invalid, ObjectFailed, PenstockError, TooLarge
from penstock.base.limits import CALL_BYTES_MAX
from penstock.base.request_id import current_request_id
from penstock.objects.identity import ObjectId

#: What cannot be bound to a place, and so does not travel.
_BY_NAME_ONLY = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
#: Types whose values cannot change, and so need not be copied.
IMMUTABLE = frozenset({bytes, str, int, float, bool, type(None)})
_NOT_CALLABLE = frozenset({"alarm"})
#: What stubs have themselves.
_TAKEN = frozenset({"id", "slot"})

#: Annotations of a stream, if they are of bytes.
_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)
#: What travels in a stream's place among the arguments.
_STREAM = True

_encode = msgspec.msgpack.Encoder().encode


class Method:
    """How one method's arguments and result travel. Raises `TypeError` for a method that could not be called with
    all its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in _BY_NAME_ONLY:
                raise TypeError(
                    f"{function.__qualname__} has the keyword-only parameter {parameter.name!r}, which cannot be "
                    "passed through a stub; make it an ordinary one, or the method private."
                )
        self.name = function.__qualname__
        self._signature = inspect.Signature(parameters)
        self._names = [parameter.name for parameter in parameters]
        hints = typing.get_type_hints(function)
        streams = [i for i, parameter in enumerate(parameters) if self._is_stream(hints.get(parameter.name))]
        if len(streams) > 1:
            raise TypeError(f"{self.name} takes {len(streams)} streams; a method can take one.")
        #: Place of the argument that is a stream of bytes, None if there is none.
        self.stream_at = streams[0] if streams else None
        #: Whether the result is a stream of bytes.
        self.gives_stream = self._is_stream(hints.get("return"))
        self.streams = self.gives_stream or self.stream_at is not None
        if inspect.isasyncgenfunction(function) and not self.gives_stream:
            raise TypeError(f"{self.name} yields; annotate its result as AsyncIterator[bytes].")
        # A tuple of the annotated types, as long as the call that is decoded: later parameters have defaults.
        self._types = [hints.get(parameter.name, Any) for parameter in parameters]
        for i in streams:
            self._types[i] = Any  # what travels in its place
        self._decoders: dict[int, msgspec.msgpack.Decoder[tuple[Any, ...]]] = {}
        result = Any if self.gives_stream else hints.get("return", Any)
        self._result: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(result)
        is_struct = isinstance(result, type) and issubclass(result, msgspec.Struct)
        #: The class of the result, where it is one of which no plain value can be an instance.
        self._result_class: type | None = result if is_struct else None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Keyword arguments put in their places. Raises `Invalid` as a wrong call would raise `TypeError`."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Invalid(f"{self.name}: {error}.") from error
        bound.apply_defaults()
        return bound.args

    def _is_stream(self, hint: Any) -> bool:
        if typing.get_origin(hint) not in _STREAMS:
            return any(self._is_stream(part) for part in typing.get_args(hint) if part is not hint)
        if typing.get_args(hint)[0] is not bytes:
            raise TypeError(f"{self.name} has a stream of something else than bytes: {hint}.")
        return True

    def take_stream(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], AsyncIterator[bytes] | None]:
        """The arguments without the stream among them, and the stream."""
        at = self.stream_at
        if at is None or at >= len(args) or args[at] is None:
            return args, None
        try:
            stream = aiter(args[at])
        except TypeError:
            kind = type(args[at]).__name__
            raise Invalid(f"{self.name} takes an async iterator of bytes, not a {kind}.") from None
        return (*args[:at], _STREAM, *args[at + 1 :]), stream

    def put_stream(self, args: tuple[Any, ...], stream: AsyncIterator[bytes]) -> tuple[Any, ...]:
        """The arguments of `take_stream` with a stream in the place of the one there was, if there was one."""
        at = self.stream_at
        if at is None or at >= len(args) or args[at] is not _STREAM:
            return args
        return (*args[:at], stream, *args[at + 1 :])

    def encode_args(self, args: tuple[Any, ...]) -> bytes:
        """Raises `Invalid` for an argument that cannot be encoded, `TooLarge` for more than `CALL_BYTES_MAX`."""
        try:
            encoded = _encode(args)
        except _NOT_ENCODED as error:
            at = next((i for i, arg in enumerate(args) if not _can_be_encoded(arg)), 0)
            raise Invalid(f"{self.name}: {self._parameter(at)} cannot be passed: {error}.") from error
        if len(encoded) > CALL_BYTES_MAX:
            raise TooLarge(f"{self.name}: its arguments have {len(encoded)} bytes; the limit is {CALL_BYTES_MAX}.")
        return encoded

    def _parameter(self, at: int) -> str:
        return f"the argument {self._names[at]!r}" if at < len(self._names) else f"argument {at + 1}"

    def decode_args(self, payload: bytes) -> tuple[Any, ...]:
        """Raises `Invalid` when the arguments are not what the method is annotated with."""
        count = _array_length(payload)
        decoder = self._decoders.get(count)
        if decoder is None:
            # More arguments than parameters is the method's own TypeError to raise.
            types = tuple(self._types[:count]) + (Any,) * (count - len(self._types))
            shape = tuple[types] if types else tuple[()]  # type: ignore[valid-type]
            decoder = self._decoders[count] = msgspec.msgpack.Decoder(shape)
        try:
            return decoder.decode(payload)
        except msgspec.MsgspecError as error:
            problem, _, place = str(error).partition(" - at `$[")
            at = place.partition("]")[0]
            what = f"{self._parameter(int(at))}: " if at.isdecimal() else ""
            raise Invalid(
                f"{self.name} was called with other arguments than it is annotated with: {what}{problem}."
            ) from error

    def copy_args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for arg in args:
            if type(arg) not in IMMUTABLE or _may_be_too_large(arg):
                return self.decode_args(self.encode_args(args))
        return args

    def copy_result(self, result: Any) -> Any:
        """Raises `TypeError` for a result that cannot be encoded, or is not what the method is annotated with,
        `TooLarge` for one of more than `CALL_BYTES_MAX`."""
        if type(result) in IMMUTABLE and self._result_class is None and not _may_be_too_large(result):
            return result
        return self._checked_result(_encode_result(result), result)

    def encode_result(self, result: Any) -> bytes:
        """The answer that carries a result. Raises `TypeError` for one that cannot be encoded, and for what is no
        struct where the method is annotated with one."""
        encoded = _encode_result(result)
        if self._result_class is not None and not isinstance(result, self._result_class):
            self._checked_result(encoded, result)
        return _encode(Answer(encoded))

    def _checked_result(self, encoded: bytes, result: Any) -> Any:
        try:
            return self._result.decode(encoded)
        except msgspec.MsgspecError as error:
            if self._result_class is None or isinstance(result, self._result_class):
                raise TypeError(f"it gave another result than it is annotated with: {error}") from error
            gave = "None" if result is None else f"a value of type {type(result).__name__}"
            hint = ". Is a `return` missing?" if result is None else ""
            raise TypeError(f"it gave {gave}, not a {self._result_class.__name__}{hint}") from error

    def decode_result(self, payload: bytes) -> Any:
        """Raises `ObjectFailed` when the result is not what the method is annotated with."""
        try:
            return self._result.decode(payload)
        except msgspec.MsgspecError as error:
            text = f"{self.name} gave another result than it is annotated with: {error}."
            raise ObjectFailed(text, type_name=TypeError.__name__) from error


def methods_of(cls: type) -> dict[str, Method]:
    """The methods that stubs can call: public, defined in Python, not the alarm handler. Raises `TypeError` for one
    that no stub could call."""
    methods = {}
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        if name in _TAKEN:
            raise TypeError(f"{cls.__qualname__}.{name} could not be called: stubs have a {name!r} of their own.")
        if isinstance(inspect.getattr_static(cls, name), staticmethod):
            continue  # it is no object's
        if not name.startswith("_") and name not in _NOT_CALLABLE:
            methods[name] = Method(function)
    return methods


class Request(msgspec.Struct, array_like=True, frozen=True):
    """`key` is empty where it follows from the name."""

    namespace: str
    name: str | None
    key: str
    method: str
    args: bytes
    #: The HTTP request that it all began with; empty if it began with an alarm.
    request_id: str = ""

    @property
    def id(self) -> ObjectId:
        return ObjectId(self.namespace, self.name, self.key)


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """A `PenstockError`, with all that it says."""

    kind: str
    message: str
    code: int
    retry_after_s: int | None
    remote: bool
    breaks_stub: bool
    type_name: str = ""

    @staticmethod
    def of(error: PenstockError) -> Failure:
        type_name = error.type_name if isinstance(error, ObjectFailed) else ""
        return Failure(
            error.kind, error.message, error.code, error.retry_after_s, error.remote, error.breaks_stub, type_name
        )

    def encode(self) -> bytes:
        return _encode(self)

    @staticmethod
    def decode(payload: bytes) -> Failure:
        return _failure_decoder.decode(payload)

    def as_error(self) -> PenstockError:
        error = KINDS[self.kind](self.message, code=self.code, retry_after_s=self.retry_after_s)
        error.remote = self.remote
        error.breaks_stub = self.breaks_stub
        if isinstance(error, ObjectFailed):
            error.type_name = self.type_name
        return error


class Answer(msgspec.Struct, array_like=True, frozen=True):
    result: bytes
    failure: Failure | None = None


_request_decoder = msgspec.msgpack.Decoder(Request)
_failure_decoder = msgspec.msgpack.Decoder(Failure)
_answer_decoder = msgspec.msgpack.Decoder(Answer)


def passed_on(error: PenstockError) -> PenstockError:
    """An error that an object's code raised, as the object's caller gets it: whoever the object has it from, it
    comes from the object."""
    if error.breaks_stub:
        # It was the stub of another object; and others may hold this very error.
        error = Failure.of(error).as_error()
        error.breaks_stub = False
    error.remote = True
    return error


def encode_request(id: ObjectId, method: str, args: bytes) -> bytes:
    key = "" if id.name is not None else id.key
    return _encode(Request(id.namespace, id.name, key, method, args, current_request_id()))


def decode_request(payload: bytes) -> Request:
    return _request_decoder.decode(payload)


def encode_result(result: Any) -> bytes:
    return _encode(Answer(_encode_result(result)))


def encode_error(error: PenstockError) -> bytes:
    return _encode(Answer(b"", Failure.of(error)))


def result_of(payload: bytes) -> bytes:
    """The result in an answer; raises the error that it carries."""
    answer = _answer_decoder.decode(payload)
    if answer.failure is None:
        return answer.result
    raise answer.failure.as_error()


#: What msgspec raises for what it cannot encode.
_NOT_ENCODED = (TypeError, ValueError, OverflowError, RecursionError)


def _can_be_encoded(value: Any) -> bool:
    try:
        _encode(value)
    except _NOT_ENCODED:
        return False
    return True


def _may_be_too_large(value: Any) -> bool:
    """Of a value that need not be copied: whether its size has to be looked at."""
    # A character is four bytes at most.
    return (type(value) is bytes or type(value) is str) and len(value) > CALL_BYTES_MAX // 4


def _encode_result(result: Any) -> bytes:
    try:
        encoded = _encode(result)
    except _NOT_ENCODED as error:
        raise TypeError(f"its result cannot be passed on: {error}") from error
    if len(encoded) > CALL_BYTES_MAX:
        raise TooLarge(f"Its result has {len(encoded)} bytes; the limit is {CALL_BYTES_MAX}.")
    return encoded


def _array_length(payload: bytes) -> int:
    first = payload[0] if payload else 0
    if first & 0xF0 == 0x90:  # fixarray
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(payload[1:3], "big")
    raise Internal("Arguments are a msgpack array of fewer than 65,536 items.")
