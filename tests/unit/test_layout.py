import pytest

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
