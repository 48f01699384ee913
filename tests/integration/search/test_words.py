# ruff: noqa: RUF001  the pairs differ in such characters
"""Words of every script: what meets what, codes, phrases, exclusions, and stop words."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from tests.integration.search.conftest import DIMENSIONS, Documents

from backline import search
from backline.search.query import Query, rank_rows

PAIRS = [
    ("café", "cafe"), ("naïve", "NAIVE"), ("Zürich", "zurich"), ("señor", "senor"),
    ("Ångström", "angstrom"), ("Đà Nẵng", "da nang"), ("Łódź", "lodz"), ("smørbrød", "smorbrod"),
    ("façade", "facade"), ("Škoda", "skoda"), ("Straße", "STRASSE"), ("œuvre", "oeuvre"),
    ("Æsir", "aesir"), ("þórr", "thorr"), ("İstanbul", "istanbul"), ("ısı", "isi"),
    ("Ὀδυσσεύς", "ΟΔΥΣΣΕΥΣ"), ("λόγος", "λογοσ"), ("ёлка", "елка"), ("ＦＵＬＬ", "full"),
    ("１２３４", "1234"), ("ﬁlter", "filter"), ("x²³", "x23"), ("Ⅷ", "viii"),
    ("soft\u00adware", "software"), ("zero\u200bwidth", "zerowidth"), ("bom\ufeffed", "bomed"),
    ("cafe\u0301", "café"), ("ｶﾀｶﾅ", "カタカナ"), ("한\u200b국어", "한국어"), ("كِتَابٌ", "كتاب"),
    ("أحمد", "احمد"), ("שָׁלוֹם", "שלום"), ("lo-fi", "lofi"), ("lo fi", "lo-fi"),
    ("node.js", "nodejs"), ("U.S.A.", "usa"), ("20mg", "20 mg"), ("dog/cat", "cat"),
    ("snake_case", "case"), ("R&D", "rd d"), ("don@example.com", "example"),
]  # fmt: skip

NEAREST = [1.0] + [0.0] * (DIMENSIONS - 1)


async def keys(docs: Documents, query: str, mode: search.Mode = "keyword") -> list[str]:
    hits = await rank_rows(
        docs.store, docs.collection, Query(query, mode, 10), query,
        None if mode == "keyword" else NEAREST,
    )  # fmt: skip
    return [hit.key for hit in hits]


@pytest.fixture
async def simple(docs: Documents) -> Documents:
    await search.set_keywords(docs.store, docs.collection, language="simple")
    return docs


async def test_forms_of_a_word_meet_in_both_directions(simple: Documents) -> None:
    await simple.insert(*(each for pair in PAIRS for each in pair))
    for number, (one, other) in enumerate(PAIRS):
        for query in (one, other):
            found = await simple.sql(
                "select key from backline.keyword_candidates(%s, %s, 200)",
                simple.collection.id,
                query,
            )
            both = {str(2 * number + 1), str(2 * number + 2)}
            assert both <= {str(row["key"]) for row in found}, (one, other)


async def test_codes_are_found_whole_by_parts_and_by_digits(docs: Documents) -> None:
    codes = {
        "AK-2390": ["2390", "AK-2390", "ak2390", "ak 2390"],
        "ABC-1234/XZ": ["XZ", "ABC-1234/XZ", "1234", "abc1234xz"],
        "TK52717": ["52717", "TK52717", "tk 52717"],
        "out/right796": ["796", "right796", "out/right796"],
        "john.doe@example.org": [
            "doe",
            "example.org",
            "john.doe@example.org",
            "<john.doe@example.org>",
        ],
        "src/main/app.module.ts": ["app.module.ts", "main", "module"],
    }
    for code in codes:
        await docs.insert(f"the log shows {code} again")
    for row, queries in enumerate(codes.values(), start=1):
        for query in queries:
            assert (await keys(docs, query))[0] == str(row), query


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ("机器学习改变了我们的生活方式", ["机器学习", "生活", "我们的生活"]),
        ("私は機械学習が好きです。猫", ["機械学習", "好き", "猫"]),
        ("ฉันชอบดนตรีไทยมาก", ["ดนตรี", "ดนตรีไทย"]),
        ("안녕하세요 세계는 넓습니다", ["세계", "세계는", "안녕"]),
    ],
)
async def test_scripts_without_spaces_are_found_by_pairs(
    docs: Documents, text: str, queries: list[str]
) -> None:
    await docs.insert(text, "nothing of it", "另一个句子", "別の文章", "ประโยคอื่น", "다른 문장")
    for query in queries:
        assert (await keys(docs, query))[:1] == ["1"], query


async def test_markup_is_not_indexed(docs: Documents) -> None:
    await docs.insert('<p class="lead">tuba</p>', "if a<tuba and b>oboe", "mail <tuba@oboe.org>")
    assert await keys(docs, "class") == []
    assert set(await keys(docs, "tuba")) == {"1", "2", "3"}


async def test_phrases_are_required_and_words_excluded(docs: Documents) -> None:
    await docs.insert(
        "the red house stands",
        "a house that is red",
        "red barn",
        "the Red, house",
        "the café in red",
    )
    await docs.embed(np.eye(DIMENSIONS, dtype=np.float32)[:5])
    modes: list[search.Mode] = ["keyword", "hybrid", "semantic"]
    for mode in modes:
        assert set(await keys(docs, '"red house"', mode)) == {"1", "4"}
        assert set(await keys(docs, "“red house” stands", mode)) == {"1", "4"}
        assert not {"1", "2", "4"} & set(await keys(docs, "red -house", mode))
        assert "1" not in await keys(docs, 'red -"red house"', mode)
        assert await keys(docs, '"CAFE"', mode) == ["5"]
    assert await keys(docs, '"house red"') == []


async def test_dash_before_a_number_or_within_a_word_excludes_nothing(docs: Documents) -> None:
    await docs.insert("peaks at -18 dB", "lo-fi beats")
    assert await keys(docs, "peaks -18") == ["1"]
    assert await keys(docs, "lo-fi") == ["2"]
    assert await keys(docs, "-beats") == ["2"]  # nothing else is left to search for


async def test_long_query_is_text(docs: Documents) -> None:
    await docs.insert("tuba solo")
    assert await keys(docs, f'"no such phrase" -tuba {"tuba solo " * 20}') == ["1"]


async def test_stop_words_alone_find_rows(docs: Documents) -> None:
    await docs.insert("The Who live at Leeds", "IT department", "tuba solo")
    assert await keys(docs, "the who") == ["1"]
    assert await keys(docs, "IT") == ["2"]
    assert await keys(docs, "the tuba") == ["3"]


async def test_last_word_is_completed_and_typos_are_corrected(docs: Documents) -> None:
    await docs.insert("compression of drums", "tuba solo")
    assert await keys(docs, "compr") == ["1"]
    assert await keys(docs, "compresion") == ["1"]
    for query, text in (("compresion drums", "compression drums"), ("-tuba drums", "drums")):
        assert await docs.store.query_text(docs.collection, query) == text


async def test_rare_code_decides_against_nearer_rows(docs: Documents) -> None:
    """The row with the code is the farthest of the rows in meaning."""
    await docs.insert(*["error code in the log of the printer"] * 60, "printer QX-77 jams")
    vectors = np.zeros((61, DIMENSIONS), np.float32)
    vectors[:60, 0], vectors[60, :2] = 1, (0.2, 0.98)
    await docs.embed(vectors)
    for query in ("QX-77", "error code QX-77 in the log of the printer"):
        assert (await keys(docs, query, "hybrid"))[0] == "61", query


async def test_index_of_another_version_is_built_again(docs: Documents) -> None:
    await docs.insert("tuba solo")
    await docs.edit("update backline.keyword_indexes set version = version - 1")
    await docs.edit("update backline.documents set terms = '{stale}'")
    assert await docs.store.needs_keywords(docs.collection)
    await search.ensure_index(docs.store, docs.collection)
    assert not await docs.store.needs_keywords(docs.collection)
    [row] = await docs.sql("select terms from backline.documents")
    assert row["terms"] == ["solo", "tuba"]


async def test_no_text_or_query_raises(docs: Documents) -> None:
    rng = random.Random(5)
    special = (
        "\"-'\\%_*?[](){}|&!:<>~+@/.,;#$^`= \t\n“”«»"
        "\u00ad\u200b\ufeff\ue000\ufdfa\u0301\U0001f600\U00020000"
    )
    letters = "aZ09é猫กアß한ــא" + "".join(
        chr(code) for code in rng.sample(range(0x20, 0x2FFFF), 400)
        if unicodedata.category(chr(code)) != "Cs"
    )  # fmt: skip
    texts = [
        "".join(rng.choice(rng.choice((special, letters))) for _ in range(rng.randint(1, 90)))
        for _ in range(150)
    ]
    texts += ["\ufdfa" * 100_000, "猫" * 100_000, "a-" * 60_000, "<" * 50_000 + "</", '"' * 199]
    await docs.insert(*texts)
    for text in texts:
        query = Query(text[:3000], "hybrid", 3, snippets=True)
        await docs.store.query_text(docs.collection, query.text)
        await rank_rows(
            docs.store, docs.collection, query, query.text, [1.0] + [0.0] * (DIMENSIONS - 1)
        )
