"""Search: rank the rows of a collection for a query, by meaning, by keywords, or by both."""

from backline.search.filters import parse as parse_filter
from backline.search.index import (
    Indexes,
    KeywordIndex,
    Recall,
    VectorIndex,
    ensure_index,
    keyword_index,
    recall,
    set_keywords,
)
from backline.search.ranking import (
    DEFAULT_WEIGHT,
    LARGEST_PAGE,
    MODES,
    Mode,
    Query,
    keyword,
    search,
    semantic,
)

__all__ = [
    "DEFAULT_WEIGHT",
    "LARGEST_PAGE",
    "MODES",
    "Indexes",
    "KeywordIndex",
    "Mode",
    "Query",
    "Recall",
    "VectorIndex",
    "ensure_index",
    "keyword",
    "keyword_index",
    "parse_filter",
    "recall",
    "search",
    "semantic",
    "set_keywords",
]
