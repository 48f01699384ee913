"""Search: rank the rows of a collection for a query, by meaning, by keywords, or by both."""

from backline.search.filters import parse as parse_filter
from backline.search.indexes import (
    Indexes,
    KeywordIndex,
    Recall,
    VectorIndex,
    ensure_index,
    keyword_index,
    recall,
    set_keywords,
)
from backline.search.query import (
    DEFAULT_WEIGHT,
    LARGEST_PAGE,
    MODES,
    Mode,
    Query,
    keyword,
    search,
    semantic,
)
from backline.search.suggest import Context, Suggestion, Suggestions, suggest

__all__ = [
    "DEFAULT_WEIGHT",
    "LARGEST_PAGE",
    "MODES",
    "Context",
    "Indexes",
    "KeywordIndex",
    "Mode",
    "Query",
    "Recall",
    "Suggestion",
    "Suggestions",
    "VectorIndex",
    "ensure_index",
    "keyword",
    "keyword_index",
    "parse_filter",
    "recall",
    "search",
    "semantic",
    "set_keywords",
    "suggest",
]
