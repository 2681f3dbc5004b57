"""Stubs: how objects are called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from penstock.base.errors import Invalid
from penstock.objects.identity import ObjectId
from penstock.objects.remote import Method

if TYPE_CHECKING:
    from penstock.objects.runtime import Runtime

BeforeCall = Callable[[], Awaitable[None]]


class Stub:
    """Calls an object's methods: `await stub.method(*args)`.

    Where the object lives makes no difference: arguments and results are copied, errors are the same
    `PenstockError`s, and calls on one stub arrive in order.
    """

    def __init__(
        self, runtime: Runtime, id: ObjectId, methods: dict[str, Method], before_call: BeforeCall | None
    ) -> None:
        self._runtime = runtime
        self._methods = methods
        self._before_call = before_call
        self.id = id
        #: The executor that the object lives on.
        self.slot = runtime.owner(id)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = self._methods.get(name)
        if method is None:
            raise Invalid(f"{self.id.namespace} has no method {name!r} that a stub can call.")
        runtime, id, slot, before_call = self._runtime, self.id, self.slot, self._before_call

        async def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                args = method.bind(args, kwargs)
            if before_call is not None:
                await before_call()
            if slot == runtime.slot:
                return method.copy_result(await runtime.call_here(id, name, method.copy_args(args)))
            return method.decode_result(await runtime.call_there(slot, id, name, method.encode_args(args)))

        setattr(self, name, call)  # found at once the next time
        return call


class Namespace:
    """All objects of one class."""

    def __init__(
        self, runtime: Runtime, name: str, methods: dict[str, Method], before_call: BeforeCall | None
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._methods = methods
        self._before_call = before_call

    def id_from_name(self, name: str) -> ObjectId:
        return ObjectId(self._name, name)

    def get(self, id: ObjectId) -> Stub:
        return Stub(self._runtime, id, self._methods, self._before_call)

    def get_by_name(self, name: str) -> Stub:
        """A stub of the object of this name, which need not exist yet."""
        return self.get(self.id_from_name(name))
