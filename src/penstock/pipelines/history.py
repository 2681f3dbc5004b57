"""All generations that a pipeline has had, with their shards: where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from penstock.objects import Runtime
from penstock.pipelines.coordinator import Deployment, ShardRef
from penstock.pipelines.settings import PipelineSettings
from penstock.pipelines.verification import Layouts, Place
from penstock.storage.object_store import ObjectStore
from penstock.storage.ports import Ports


async def read_history(runtime: Runtime, id: str) -> History:
    """Of the pipeline with this id. Raises `NotFound` if it is deleted, `Unavailable`."""
    coordinator = runtime.namespace("Coordinator").get_by_name(id)
    # Its shards first: each is then of one of the generations.
    shards: list[ShardRef] = await coordinator.ledgers()
    return History(await coordinator.deployments(), shards)


@dataclass(frozen=True, slots=True)
class History:
    """`deployments` are the newest first, `shards` the oldest."""

    deployments: list[Deployment]
    shards: list[ShardRef]

    def settings_of(self, version: int) -> PipelineSettings:
        return next(d.settings for d in self.deployments if d.version == version)

    @property
    def created_ms(self) -> int:
        return min(deployment.created_ms for deployment in self.deployments)

    def store(self, ports: Ports, settings: PipelineSettings) -> ObjectStore:
        """The one with the files of a generation with these settings."""
        return self.store_at(ports, _place(settings))

    def store_at(self, ports: Ports, place: Place) -> ObjectStore:
        """Reached as the newest generation does that delivers there: an older one's key may be no good any more.
        Raises what `S3Stores.at` does."""
        connection = next((d.settings.s3 for d in self.deployments if _place(d.settings) == place), None)
        return ports.buckets if connection is None else ports.s3.at(connection)

    def layouts(self) -> dict[Place, Layouts]:
        by_place = sorted(((_place(d.settings), d.settings.layout) for d in self.deployments), key=_first)
        return {place: Layouts([layout for _, layout in group]) for place, group in groupby(by_place, key=_first)}


def _place(settings: PipelineSettings) -> Place:
    return Place(settings.s3.endpoint if settings.s3 is not None else "", settings.bucket)


def _first(pair: tuple[Place, object]) -> Place:
    return pair[0]
