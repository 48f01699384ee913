"""Markdown documents, split into passages, from declaration to search."""

from __future__ import annotations

from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline.postgres.store import Store
from backline.search.query import Query, search
from backline.types import SearchHit, Splitting

DOCUMENTS = r"""
create table notes (id text primary key, title text not null, body text not null);
insert into notes
select 'page-' || p, 'Chapter ' || p, (
  select string_agg(
    case when i % 10 = 1 then E'## Section ' || (i / 10 + 1) || E'\n\n' else '' end
    || 'Paragraph ' || i || ' of chapter ' || p || ' explains setting ' || (p * 37 + i * 11) % 997
    || ' of the console. '
    || repeat('It is set by hand, checked by ear, and written down for the next session. ',
              1 + (p + i) % 4), E'\n\n' order by i)
  from generate_series(1, 10 + (p * 13) % 150) i)
from generate_series(1, 40) p
"""
EDITS = {
    "a changed paragraph": "replace(body, 'Paragraph 55 of', 'Paragraph fifty-five of')",
    "a new first paragraph": "E'An introduction to everything.\\n\\n' || body",
    "a paragraph removed": "regexp_replace(body, 'Paragraph 67 of[^\\n]*\\n\\n', '')",
    "a new last paragraph": "body || E'\\n\\nThat is all.'",
}


async def find(world: World, text: str) -> list[SearchHit]:
    return await search(world.store, world.collection, world.embedder, Query(text, "semantic", 5))


async def test_documents_are_filled_followed_and_searched(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(
        store, provider, ddl=DOCUMENTS, into="document_passages",
        splitting=Splitting("auto", 256),
    ) as world:  # fmt: skip
        report = await world.fill()
        assert (report.embedded, report.failed, report.complete) == (40, 0, True)
        await world.check_complete()
        for name, expression in EDITS.items():
            before = sum(provider.texts_embedded.values())
            await world.sql(f"update notes set body = {expression} where id = 'page-11'")
            await world.fill()
            sent = sum(provider.texts_embedded.values()) - before
            assert 1 <= sent <= 3, name
        await world.check_complete()
        text = next(text for text in provider.texts_embedded if "Paragraph fifty-five of" in text)
        [best, *_] = await find(world, text)
        assert best.key == "page-11"
        assert best.passages[0].heading == "Section 6"
        assert "Paragraph fifty-five of" in best.passages[0].text
        await world.sql("delete from notes where id = 'page-11'")
        await world.fill()
        assert "page-11" not in {hit.key for hit in await find(world, text)}
        await world.check_complete()
