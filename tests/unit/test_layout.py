from penstock.pipelines.layout import file_key


def test_a_files_key_is_hive_style_in_utc() -> None:
    assert file_key("", 1_763_942_399_999, "01JDCM", "gzip") == "event_date=2025-11-23/hr=23/01JDCM.json.gz"
    assert file_key("", 1_763_942_400_000, "01JDCM", "gzip") == "event_date=2025-11-24/hr=00/01JDCM.json.gz"


def test_the_prefix_comes_first_and_the_extension_tells_the_compression() -> None:
    assert file_key("raw/eu", 0, "X", "none") == "raw/eu/event_date=1970-01-01/hr=00/X.json"
