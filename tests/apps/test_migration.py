"""Renamed and deleted classes: what is planned."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from penstock.apps.migration import Catalog, Migration, plan
from penstock.base.errors import Invalid


@dataclass
class App:
    class_names: set[str]
    migrations: list[Migration] = field(default_factory=list)


def catalog(**namespaces: str) -> Catalog:
    return Catalog(namespaces=namespaces)


def planned(before: Catalog, app: App, *populated: str) -> Catalog:
    return plan(before, app, set(populated))


def refusal(before: Catalog, app: App, *populated: str) -> str:
    with pytest.raises(Invalid) as refused:
        planned(before, app, *populated)
    return refused.value.message


V2 = Migration(tag="v2", renamed={"Old": "New"}, deleted=["Gone"])


def test_a_class_has_the_namespace_of_its_name() -> None:
    assert planned(Catalog(), App({"A", "B"})).namespaces == {"A": "A", "B": "B"}


def test_a_renamed_class_keeps_its_namespace_and_a_deleted_ones_is_removed() -> None:
    after = planned(catalog(Old="Old", Gone="Gone"), App({"New"}, [V2]), "Old", "Gone")
    assert after == Catalog(namespaces={"New": "Old"}, applied=["v2"], removing=["Gone"])


def test_a_migration_is_applied_once() -> None:
    before = Catalog(namespaces={"New": "Old", "Gone": "Gone"}, applied=["v2"])
    after = planned(before, App({"New", "Gone"}, [V2]), "Old", "Gone")
    assert after == before


def test_a_name_that_is_free_again_begins_with_a_namespace_of_its_own() -> None:
    before = Catalog(namespaces={"New": "Old"}, applied=["v2"])
    after = planned(before, App({"New", "Old", "OLD_2"}, [V2]), "Old")
    assert after.namespaces == {"New": "Old", "Old": "Old-2", "OLD_2": "OLD_2"}
    assert planned(after, App({"New", "Old", "OLD_2"}, [V2]), "Old", "Old-2") == after


def test_a_namespace_is_taken_as_long_as_it_is_being_removed() -> None:
    before = Catalog(removing=["A"], applied=["v1"])
    assert planned(before, App({"A"}), "A") == Catalog(namespaces={"A": "A-2"}, removing=["A"], applied=["v1"])


def test_renames_of_one_migration_happen_at_once_and_migrations_one_after_the_other() -> None:
    swap = Migration(tag="swap", renamed={"A": "B", "B": "A"})
    after = planned(catalog(A="A", B="B"), App({"A", "B"}, [swap]), "A", "B")
    assert after.namespaces == {"A": "B", "B": "A"}
    chain = [Migration(tag="1", renamed={"A": "B"}), Migration(tag="2", renamed={"B": "C"})]
    assert planned(catalog(A="A"), App({"C"}, chain), "A").namespaces == {"C": "A"}


def test_what_a_new_data_directory_does_not_have_is_no_error() -> None:
    after = planned(Catalog(), App({"New"}, [V2]))
    assert after == Catalog(namespaces={"New": "New"}, applied=["v2"])


def test_a_class_that_is_gone_without_a_word_is_refused_with_what_to_write() -> None:
    assert refusal(catalog(A="A", B="B", C="C"), App({"C"}, [Migration(tag="v1")]), "A", "B", "C") == (
        "There are objects of A, B, but the application has no such class. Put the class back, or say in the "
        "application's list `migrations` what became of it: "
        'Migration(tag="v2", renamed={"A": "<its new name>", "B": "<its new name>"}) keeps the objects, '
        'Migration(tag="v2", deleted=["A", "B"]) removes them with all that they hold. If this is another '
        "application, start it with a --data-dir of its own."
    )


def test_a_new_name_that_is_not_there_is_said_with_the_migration_that_gives_it() -> None:
    message = refusal(catalog(Room="Room"), App({"Chat"}, [Migration("v1", renamed={"Room": "Chatt"})]), "Room")
    assert message.startswith(
        "Migration 'v1' renames Room to Chatt; is Chatt spelled right? There are objects of Chatt"
    )


def test_a_migration_that_was_edited_after_it_was_applied_is_named() -> None:
    before = Catalog(namespaces={"Room": "Room"}, applied=["v1"])
    message = refusal(before, App({"Chat"}, [Migration("v1", renamed={"Room": "Chat"})]), "Room")
    assert message.startswith(
        "Migration 'v1' was applied before, so what it says now is ignored: write a new one. "
    )


def test_a_class_that_is_gone_and_had_no_objects_is_forgotten() -> None:
    assert planned(catalog(A="A", B="B"), App({"B"}), "B").namespaces == {"B": "B"}


def test_objects_of_which_nothing_was_written_down_count_too() -> None:
    assert "There are objects of A," in refusal(Catalog(), App(set()), "A")
    assert planned(Catalog(), App({"A"}), "A").namespaces == {"A": "A"}


def test_a_rename_to_a_name_that_leads_nowhere_is_refused_under_its_new_name() -> None:
    assert "There are objects of New," in refusal(catalog(Old="Old"), App({"Old"}, [V2]), "Old")


def test_two_classes_objects_do_not_become_one() -> None:
    before = catalog(Old="Old", New="New")
    assert "there are objects of New already" in refusal(before, App({"New"}, [V2]), "Old", "New")
    assert planned(before, App({"New"}, [V2]), "Old").namespaces == {"New": "Old"}


def test_a_deleted_class_must_be_gone_from_the_application_too() -> None:
    message = refusal(catalog(Gone="Gone"), App({"Gone"}, [V2]), "Gone")
    assert message.startswith(
        "Migration 'v2' deletes the objects of Gone, but the application still has that class"
    )
