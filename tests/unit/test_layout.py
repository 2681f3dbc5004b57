from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipelines.layout import DAY_MS, HOUR_MS, MINUTE_MS, Layout, file_key, partition_ms, template_problem


def test_a_files_key_is_hive_style_in_utc() -> None:
    layout = Layout("")
    assert file_key(layout, 1_763_942_399_999, "01JDCM") == "event_date=2025-11-23/hr=23/01JDCM.json.gz"
    assert file_key(layout, 1_763_942_400_000, "01JDCM") == "event_date=2025-11-24/hr=00/01JDCM.json.gz"


def test_the_prefix_comes_first_and_the_extension_tells_the_compression() -> None:
    for compression, extension in (("none", "json"), ("zstd", "json.zst"), ("deflate", "json.deflate")):
        layout = Layout("raw/eu", compression=compression)  # type: ignore[arg-type]
        assert file_key(layout, 0, "X") == f"raw/eu/event_date=1970-01-01/hr=00/X.{extension}"


def test_dead_letters_are_in_a_folder_of_their_own_below_the_prefix() -> None:
    assert file_key(Layout("raw"), 0, "X", dead=True) == "raw/_dead/event_date=1970-01-01/hr=00/X.json.gz"


def test_templates_say_where_and_how() -> None:
    layout = Layout("p", "y=${year}/m=${month}/d=${day}", "${hr}${minute}-${slug}.ndjson")
    assert file_key(layout, 1_763_942_399_999, "X") == "p/y=2025/m=11/d=23/2359-X.ndjson"
    assert file_key(Layout("", "", "${slug}${extension}"), 0, "X") == "X.json.gz"


def test_a_prefix_is_no_template() -> None:
    layout = Layout("${date}/${nope}/$", "", "${slug}")
    assert file_key(layout, 0, "X") == "${date}/${nope}/$/X"


@pytest.mark.parametrize(
    ("filepath", "filename", "span_ms"),
    [
        ("event_date=${date}/hr=${hr}", "${slug}", HOUR_MS),
        ("${date}", "${minute}${slug}", MINUTE_MS),
        ("${year}", "${slug}", DAY_MS),
        ("all", "${slug}", None),
    ],
)
def test_a_file_spans_no_more_time_than_its_key_tells(filepath: str, filename: str, span_ms: int | None) -> None:
    assert template_problem(filepath, filename) is None
    assert partition_ms(Layout("", filepath, filename)) == span_ms


@pytest.mark.parametrize(
    ("filepath", "filename", "field"),
    [
        ("${slug}", "${slug}", "filepath"),
        ("${extension}", "${slug}", "filepath"),
        ("", "${}${slug}", "filename"),
        ("", "${ slug }", "filename"),
        ("", "$slug", "filename"),
        ("", "$${slug}", "filename"),
        ("", "${slug", "filename"),
        ("", "x", "filename"),
        ("", "a/${slug}", "filename"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_by_name(filepath: str, filename: str, field: str) -> None:
    problem = template_problem(filepath, filename)
    assert problem is not None and problem[0] == field


pieces = st.sampled_from(["${date}", "${year}", "${month}", "${day}", "${hr}", "${minute}", "a", "b=", "-", "é"])
folders = st.lists(pieces, min_size=1, max_size=4).map("".join)
TIMES_MS = st.integers(0, 253_402_300_799_999)


@given(st.lists(folders, max_size=3).map("/".join), st.lists(pieces, max_size=3).map("".join), TIMES_MS, TIMES_MS)
def test_two_times_of_one_partition_have_the_same_key(filepath: str, name: str, one_ms: int, other_ms: int) -> None:
    layout = Layout("p", filepath, name + "${slug}")
    assert template_problem(filepath, name + "${slug}") is None
    span_ms = partition_ms(layout)
    if span_ms is not None:
        other_ms = one_ms - one_ms % span_ms + other_ms % span_ms
    assert file_key(layout, one_ms, "X") == file_key(layout, other_ms, "X")


@given(TIMES_MS)
def test_the_variables_tell_the_time_in_utc_up_to_the_year_9999(at_ms: int) -> None:
    layout = Layout("", "${date}/${year}-${month}-${day}T${hr}:${minute}", "${slug}")
    date, minute, _ = file_key(layout, at_ms, "X").split("/")
    at = datetime.fromisoformat(minute).replace(tzinfo=UTC)
    assert date == minute[:10] and len(minute) == 16
    assert int(at.timestamp()) * 1000 == at_ms - at_ms % MINUTE_MS
