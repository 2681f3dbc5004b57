"""Stubs: how objects are called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from penstock.base.errors import Invalid, PenstockError
from penstock.objects.identity import ObjectId, named_id, parsed_id, unique_id
from penstock.objects.remote import Method

if TYPE_CHECKING:
    from penstock.objects.runtime import Runtime

BeforeCall = Callable[[], Awaitable[None]]


class NoSuchMethod(Invalid, AttributeError):
    """`Invalid` for whoever calls an object; an AttributeError for Python, which asks `hasattr` and the like."""


class Bond:
    """What a stub knows of the object that it has called. Apart from the stub, so that the stub's methods can hold
    it without holding the stub, which would make a circle."""

    __slots__ = ("broken",)

    def __init__(self) -> None:
        #: Why the object broke under a call.
        self.broken: PenstockError | None = None

    def failed(self, error: PenstockError) -> None:
        if error.breaks_stub:
            self.broken = error


class Stub:
    """Calls an object's methods: `await stub.method(*args)`.

    Where the object lives makes no difference: arguments and results are copied, errors are the same
    `PenstockError`s, and calls on one stub arrive in order.

    An object's stubs (`ctx.namespace`) break with the object that they call: once a call has failed because the
    object broke or its executor died, all later calls fail in the same way, so that none can arrive without those
    that were made before it. Get a new stub to go on: `namespace.get(stub.id)`. Stubs of the server's own code
    (`Runtime.namespace`), whose calls do not depend on one another, last.
    """

    def __init__(
        self,
        runtime: Runtime,
        id: ObjectId,
        methods: dict[str, Method],
        before_call: BeforeCall | None,
        *,
        lasting: bool,
    ) -> None:
        self._runtime = runtime
        self._methods = methods
        self._before_call = before_call
        self._bond = None if lasting else Bond()
        self.id = id
        #: The executor that the object lives on.
        self.slot = runtime.owner(id)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = self._methods.get(name)
        if method is None:
            raise NoSuchMethod(f"{self.id.namespace} has no method {name!r} that a stub can call.")
        call = self._caller(name, method)
        setattr(self, name, call)  # found at once the next time
        return call

    def _caller(self, name: str, method: Method) -> Callable[..., Awaitable[Any]]:
        runtime, id, slot, before_call, bond = self._runtime, self.id, self.slot, self._before_call, self._bond
        on_failure = bond.failed if bond is not None else None
        streams, is_here = method.streams, slot == runtime.slot

        async def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs or streams:
                args = method.bind(args, kwargs)
            if bond is not None and bond.broken is not None:
                raise bond.broken.with_traceback(None)
            source = None
            if streams:
                args, source = method.take_stream(args)
            # In this step: while the call waits at the gate the caller goes on, and may change what it gave.
            sent: Any = method.copy_args(args) if is_here else method.encode_args(args)
            if before_call is not None:
                await before_call()
            try:
                if is_here:
                    if not streams:
                        return await runtime.call_here(id, name, sent, method.copy_result)
                    return await runtime.call_streams_here(id, method, name, sent, source, before_call, on_failure)
                if not streams:
                    return method.decode_result(await runtime.call_there(slot, id, name, sent))
                return await runtime.call_streams_there(
                    slot, id, method, name, sent, source, before_call, on_failure
                )
            except PenstockError as error:
                if bond is not None:
                    bond.failed(error)
                raise

        return call


class Namespace:
    """All objects of one class."""

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        methods: dict[str, Method],
        before_call: BeforeCall | None,
        *,
        lasting: bool,
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._methods = methods
        self._before_call = before_call
        self._lasting = lasting

    def id_from_name(self, name: str) -> ObjectId:
        """The id of the object of this name, always the same. Raises `Invalid` for a name of more than 1,024 bytes
        in UTF-8."""
        return named_id(self._name, name)

    def new_unique_id(self) -> ObjectId:
        """The id of an object that has no name. Keep `str(id)`: nothing else leads to it."""
        return unique_id(self._name, self._runtime.ports.rng)

    def id_from_string(self, text: str) -> ObjectId:
        """The id that `str(id)` gave, 64 hexadecimal digits. Its `name` is None, also if the object has one. Raises
        `Invalid` for anything else."""
        return parsed_id(self._name, text)

    def get(self, id: ObjectId) -> Stub:
        """A stub of the object, which need not exist yet. Raises `Invalid` for an id of another class."""
        if not isinstance(id, ObjectId):
            raise Invalid(
                f"get takes an ObjectId, not a {type(id).__name__}; use get_by_name(name), or "
                "get(id_from_string(text)) for the text of an id."
            )
        if id.namespace != self._name:
            raise Invalid(f"{id.label} is an object of {id.namespace}, not of {self._name}.")
        return Stub(self._runtime, id, self._methods, self._before_call, lasting=self._lasting)

    def get_by_name(self, name: str) -> Stub:
        """A stub of the object of this name, which need not exist yet. Raises `Invalid` as `id_from_name`."""
        return self.get(self.id_from_name(name))
