from __future__ import annotations

import pytest

from cprune_tf.report import formats


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        (formats.significant, 0.0, "0"),
        (formats.significant, 0.29412, "0.294"),
        (formats.significant, 0.09996, "0.100"),
        (formats.significant, 12.74, "12.7"),
        (formats.significant, 9.996, "10.0"),
        (formats.significant, 999.6, "1,000"),
        (formats.significant, 54321.0, "54,300"),
        (formats.significant, -0.5, "-0.500"),
        (formats.significant, 2.5e7, "2.50e+07"),
        (formats.milliseconds, 0.2706, "0.271 ms"),
        (formats.milliseconds, 0.0079, "7.90 µs"),
        (formats.percent, 0.91450, "91.45 %"),
        (formats.share, 0.0, "0 %"),
        (formats.share, 0.004, "< 1 %"),
        (formats.change, 0.625, "−37.5 %"),
        (formats.change, 1.1, "+10.0 %"),
        (formats.change, 1.0, "±0 %"),
        (formats.points, -0.0043, "−0.43 pp"),
        (formats.points, 0.01, "+1.00 pp"),
        (formats.points, -1e-9, "±0.00 pp"),
        (formats.factor, 1.8349, "1.83×"),
        (formats.macs, 12_501_632, "12.5 M"),
        (formats.macs, 640, "640"),
        (formats.file_bytes, 318_764, "319 kB"),
        (formats.file_bytes, 2_143_289_344, "2.14 GB"),
        (formats.file_bytes, 12, "12 B"),
        (formats.error, 0.0, "0"),
        (formats.error, 1.13e-6, "1.1e-06"),
        (formats.threads, 1, "1 thread"),
        (formats.threads, 2, "2 threads"),
        (formats.ratio, 0.88634, "0.886x"),
        (formats.duration, 4.2, "4.2 s"),
        (formats.duration, 551.2, "9:11 min"),
        (formats.duration, 7650, "2:07:30 h"),
        (formats.metric, None, "accuracy"),
        (formats.metric, "top5", "top-5 accuracy"),
    ],
)
def test_numbers_for_people(written, value, expected):
    assert written(value).replace("\u00a0", " ") == expected


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ((), 64, "none"),
        ((64,), 64, "64"),
        ((16, 32, 48), 48, "16, 32, 48"),
        (tuple(range(1, 65)), 64, "all up to 64"),
        (tuple(range(8, 65, 8)), 64, "multiples of 8 up to 64"),
        (tuple(range(8, 65, 8)), 70, "multiples of 8 up to 70"),
        ((8, 12, 16, 24, 32), 32, "multiples of 8 or 12 up to 32"),
        ((6, 8, 12, 15, 16, 18), 18, "multiples of 6, 8 or 15 up to 18"),
        ((8, 16, 32, 64), 64, "8, 16, 32, 64"),  # 24 is missing
        ((8, 16, 24, 32), 64, "8, 16, 24, 32"),  # and here 40
    ],
)
def test_counts_are_named_shortly(values, limit, expected):
    assert formats.counts(values, limit) == expected


def test_a_runtime_says_what_it_ran_on_where_there_is_a_choice():
    assert formats.runtime("litert") == "LiteRT"
    assert formats.runtime("tvm", "Tesla T4 (cuda)") == "TVM on Tesla T4 (cuda)"


def test_quartiles_have_the_medians_unit():
    assert formats.milliseconds_like(0.0567, 0.0549, 0.103) == ("54.9", "103")
    assert formats.milliseconds_like(0.2, 0.19, 0.31) == ("0.190", "0.310")
